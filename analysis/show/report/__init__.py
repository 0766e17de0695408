"""The report of a sweep: a terminal summary, report.json, pictures, and one self-contained HTML
page.

`write_report` is what a sweep calls at its end. Pictures are embedded in the page, so that the page
can be mailed. Every file is written atomically. Numbers come from `analysis.answer.study`; this
package only shows them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from analysis.answer.choice import BestRun, Refused
from analysis.answer.costs import Cost
from analysis.answer.ensemble import ROWS
from analysis.answer.envelope import tuned_points
from analysis.answer.guided import guided
from analysis.answer.marks import marks_of
from analysis.answer.settings import answer, own_cost
from analysis.answer.settle import settling
from analysis.answer.space import NoRunError
from analysis.answer.study import STUDY_DELTA, Study, analyse, uniques
from analysis.answer.surrogate import LEAST_ROWS, Surrogate, wide_surrogate
from analysis.beside import ALONE, Alone
from analysis.data.files import write_bytes, write_json
from analysis.data.table import NoUsableRowError, Runs, read_table
from analysis.show.best import lines

if TYPE_CHECKING:
    import pyarrow as pa

    from analysis.laws import Law


@dataclass(frozen=True)
class Report:
    """summary: plain text for a terminal. paths: files written, report.html first. study: what was
    found, absent if no row of the table was usable. numbers: what report.json holds.
    """

    summary: str
    paths: tuple[Path, ...]
    study: Study | None
    numbers: dict[str, Any]


def write_report(
    results: Path | str | pa.Table,
    folder: Path | str,
    *,
    title: str,
    budgets: Sequence[float] | None = None,
    seed: int = 0,
    bootstraps: int = 200,
    beside: Alone = ALONE,
) -> Report:
    """Analyse a results table and write report.html, report.json and the pictures into `folder`.

    results: see `table.read_table`. budgets: active FLOPs (6 N D) to recommend for; None is the
    largest run's. beside: who shares the work (`beside.second`).
    Raises ValueError if the table is unreadable. A table too small for any law is answered by the
    smooth model; one of fewer than five rows, of fresh tokens, or without a usable row still gets a
    report, which says what is missing.
    """
    try:
        runs = read_table(results)
    except NoUsableRowError as error:
        return _empty(str(error), Path(folder), title)
    return write_runs_report(
        runs, folder, title=title, budgets=budgets, seed=seed, bootstraps=bootstraps, beside=beside
    )


def write_runs_report(
    runs: Runs,
    folder: Path | str,
    *,
    title: str,
    law: Law | None = None,
    budgets: Sequence[float] | None = None,
    delta: float = STUDY_DELTA,
    seed: int = 0,
    bootstraps: int = 200,
    vector: bool = False,
    beside: Alone = ALONE,
) -> Report:
    """`write_report` of rows that were read beforehand. law: the only one to use, else the table
    decides; delta: Huber threshold of the fits. vector: write every picture as SVG too.
    """
    beside.begin(_import_pictures)
    with_settings = bool(runs.settings) and len(runs) >= LEAST_ROWS
    model = guided(runs, seed=seed, beside=beside) if with_settings and law is None else None
    answers = beside.begin(_answers, runs, model, budgets, seed)
    tuned = tuned_points(model or wide_surrogate(runs, seed=seed)) if with_settings else runs
    cost = own_cost(runs)
    study = analyse(
        tuned, law=law, budgets=budgets, cost=cost, delta=delta, seed=seed, bootstraps=bootstraps, beside=beside,
        measured=runs if with_settings else None,
    )  # fmt: skip
    best = answers()
    if study.fit is None and law is None and not with_settings and _is_answered(runs):
        model = guided(runs, seed=seed, beside=beside)  # as what is trained from this table is chosen
        best = _answers(runs, model, budgets, seed)
    first: list[str] = []
    if model is not None:
        first = [line for one in best for line in _lines(one, model, cost, seed)]
        study = replace(study, marks=marks_of([one for one in best if isinstance(one, BestRun)]))
    return write_study(study, Path(folder), title, best, first, vector, beside)


def _is_answered(runs: Runs) -> bool:
    """Whether the smooth model answers where no law does: not of fresh tokens, whose U is no given
    one, nor of so many rows that it takes minutes.
    """
    return LEAST_ROWS <= len(runs) <= ROWS and uniques(runs) != (None,)


def _import_pictures() -> None:
    """For a second process, while this one begins."""
    import analysis.show.plots.pictures  # noqa: F401


def _lines(one: BestRun | Refused, model: Surrogate, cost: Cost, seed: int) -> list[str]:
    return lines(one, settling(model, one, cost, seed) if isinstance(one, BestRun) else None)


def _answers(
    runs: Runs, model: Surrogate | None, budgets: Sequence[float] | None, seed: int
) -> tuple[BestRun | Refused, ...]:
    """The answer with settings over the most unique tokens, for each budget."""
    if model is None:
        return ()
    unique = float(runs.points.unique.max())
    dearest = float(own_cost(runs).of(runs.points.take(runs.points.unique == unique)).max())
    return tuple(_answer(runs, model, budget, unique, seed) for budget in budgets or (dearest,))


def _answer(runs: Runs, model: Surrogate, budget: float, unique: float, seed: int) -> BestRun | Refused:
    try:
        return answer(runs, budget=budget, unique=unique, seed=seed, model=model)
    except NoRunError as error:
        return Refused(budget, unique, own_cost(runs).unit, str(error))


def _empty(reason: str, folder: Path, title: str) -> Report:
    """The report of a table in which nothing completed: why, and nothing else."""
    from analysis.show.report.page import plain_page

    text = "\n".join([title, "=" * len(title), "", "No recommendation:", f"  - {reason}"])
    found: dict[str, Any] = {"title": title, "rows": 0, "warnings": [reason]}
    paths = (
        write_bytes(folder / "report.html", plain_page(title, text).encode()),
        write_json(folder / "report.json", found),
    )
    return Report(text, paths, None, found)


def write_study(
    study: Study,
    folder: Path,
    title: str,
    best: Sequence[BestRun | Refused] = (),
    first: Sequence[str] = (),
    vector: bool = False,
    beside: Alone = ALONE,
) -> Report:
    """Write the files of an analysis made beforehand. best: answers with settings, and first: the
    lines that say them, which come first; a budget too small for any run is refused among them.
    """
    from analysis.show.plots.pictures import PICTURES
    from analysis.show.report.page import page
    from analysis.show.report.summary import numbers, summary

    text = summary(study, title, first)
    shown = {name: picture for name, picture in PICTURES.items() if picture.suits(study)}
    written = beside.each(partial(_write_picture, study, folder, vector), shown)
    pictures = [path for paths in written for path in paths]
    found = numbers(study, title)
    found["answers"] = [asdict(one) for one in best if isinstance(one, BestRun)]
    found["refused"] = [asdict(one) for one in best if isinstance(one, Refused)]
    numbers_path = write_json(folder / "report.json", found)
    bitmaps = [path for path in pictures if path.suffix == ".png"]
    embedded = {path.stem: (path.read_bytes(), shown[path.stem].said_of(study)) for path in bitmaps}
    html = write_bytes(folder / "report.html", page(study, title, text, embedded).encode())
    return Report(text, (html, numbers_path, *pictures), study, found)


def _write_picture(study: Study, folder: Path, vector: bool, name: str) -> list[Path]:
    from analysis.show.plots.pictures import PICTURES
    from analysis.show.plots.style import save

    return save(PICTURES[name].draw(study), folder, name, vector)
