"""Does the answer of a default sweep stand still? The same table with other noise, and resampled.

For each table that is given (a run folder or file of a finished `make sweep`): what its answer says
of the largest budget; the same after every loss was moved by noise of half a per cent, twelve
times, which shall move ln density little; and the same of tables whose experiments were drawn anew
with replacement (a row drawn twice counts as two), whose advised losses and densities the printed
intervals shall hold. Everything is fitted anew each time. A table without settings, as the first
default grid's (benchmarks/data/first_grid.csv: 54 runs of `python sweeps/grid.py` at 330f34c), is
answered by laws, one with settings by its smooth model. Writes results/analysis_default.json; run
`python -m benchmarks.analysis_default --tables FOLDER ...`.
"""

from __future__ import annotations

import argparse
import platform
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from analysis.answer.choice import Measured
from analysis.answer.costs import Cost
from analysis.answer.guided import guided
from analysis.answer.recommend import Interval, MeasuredRow, recommend
from analysis.answer.settings import answer, own_cost
from analysis.answer.study import analyse
from analysis.data.files import write_json
from analysis.data.points import Array
from analysis.data.table import Runs, read_table

RESULTS = Path(__file__).parent / "results"
NOISE, NOISY = 0.005, 12  # sd of ln L that is added, and tables with it
RESAMPLED = 8  # tables of experiments drawn with replacement


@dataclass(frozen=True)
class Told:
    """What an answer says. loss: of one run where a table has settings, else expected. compared:
    dense minus sparse in nats where it has settings, else the saving in compute.
    """

    first_row: str
    density: Interval
    loss: Interval
    compared: Interval | None
    shown: bool

    @property
    def row(self) -> dict[str, float]:
        return {"density": self.density.value, "loss": self.loss.value, "claims": float(self.shown)}


def told(runs: Runs, questions: list[tuple[float, float]], cost: Cost) -> list[Told]:
    """The answers of today to some (budget, U)."""
    if runs.settings:
        model = guided(runs)
        found = [answer(runs, budget=budget, unique=unique, cost=cost, model=model) for budget, unique in questions]
        return [Told(_first(one.rows), one.best.density, one.best.loss, one.difference, one.shown) for one in found]
    study = analyse(runs, cost=cost)
    assert study.fit is not None
    assert study.draws is not None
    ask = partial(recommend, study.fit, study.draws, box=study.box, cost=cost, laws=study.laws)
    items = [ask(budget=budget, unique=unique) for budget, unique in questions]
    return [Told(_first(one.rows), one.density, one.loss, one.saving, one.shown) for one in items]


def _first(rows: tuple[Measured, ...] | tuple[MeasuredRow, ...]) -> str:
    return rows[0].row if rows else ""


def asked(runs: Runs) -> list[tuple[float, float]]:
    """The default questions: each U, at the cost of its dearest run."""
    cost = own_cost(runs).of(runs.points)
    return [(float(cost[over].max()), unique) for unique, over in _by_unique(runs)]


def _by_unique(runs: Runs) -> list[tuple[float, Array]]:
    """(U, (n,) which rows are over it), the largest last."""
    unique = runs.points.unique
    return [(float(u), np.isclose(unique, u)) for u in np.unique(unique)]


def noisy(runs: Runs) -> Iterator[Runs]:
    for seed in range(NOISY):
        moved = np.random.default_rng(seed).standard_normal(len(runs))
        yield replace(runs, loss=runs.loss * np.exp(NOISE * moved))


def resampled(runs: Runs) -> Iterator[Runs]:
    """The same number of experiments, each with all its replicates."""
    kinds = np.unique(runs.group)
    for seed in range(RESAMPLED):
        drawn = np.random.default_rng(seed).choice(kinds, len(kinds))
        yield runs.take(np.concatenate([np.flatnonzero(runs.group == kind) for kind in drawn]))


def moves(answers: list[Told]) -> dict[str, Any]:
    """How the answers differ."""
    rows = [one.row for one in answers]
    density, loss = (np.array([row[name] for row in rows]) for name in ("density", "loss"))
    return {
        "tables": len(rows),
        "sd_of_ln_density": float(np.log(density).std(ddof=1)),
        "sd_of_loss": float(loss.std(ddof=1)),
        "claim_a_difference": float(np.mean([row["claims"] for row in rows])),
        "rows": rows,
    }


def held(first: Told, others: list[dict[str, float]]) -> dict[str, float]:
    """Share of the other answers that the first one's intervals hold."""

    def share(interval: Any, values: Array) -> float:
        return float(np.mean((interval.low - 1e-9 <= values) & (values <= interval.high + 1e-9)))

    values = {name: np.array([other[name] for other in others]) for name in ("density", "loss")}
    return {"density": share(first.density, values["density"]), "loss": share(first.loss, values["loss"])}


def study(path: Path) -> dict[str, Any]:
    """Per U."""
    runs = read_table(path)
    questions, cost = asked(runs), own_cost(runs)
    firsts = told(runs, questions, cost)
    noise = [told(one, questions, cost) for one in noisy(runs)]
    again = [told(one, questions, cost) for one in resampled(runs)]
    found = {}
    for place, (unique, over) in enumerate(_by_unique(runs)):
        first = firsts[place]
        best = int(np.argmin(np.where(over, runs.loss, np.inf)))
        others = moves([each[place] for each in again])
        found[f"{unique:.0f}"] = {
            "rows": len(runs),
            "names_the_best_row": first.first_row == str(runs.ids[best]),
            "answer": first.row | {"loss_range": asdict(first.loss), "density_range": asdict(first.density)},
            "difference" if runs.settings else "saving": None if first.compared is None else asdict(first.compared),
            "noise": moves([each[place] for each in noise]),
            "resampled": others | {"held_by_the_intervals": held(first, others["rows"])},
        }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", type=Path, nargs="+", required=True, help="run folders or tables of default sweeps")
    found = {}
    for path in parser.parse_args().tables:
        found[path.name] = study(path)
        for unique, part in found[path.name].items():
            said = ("names_the_best_row", "answer", "difference", "saving")
            print(path.name, unique, {name: part[name] for name in said if name in part})
            rest = {key: value for key, value in part["noise"].items() if key != "rows"}
            print(rest, part["resampled"]["held_by_the_intervals"], flush=True)
    result = {
        "command": "python -m benchmarks.analysis_default --tables FOLDER ...",
        "noise": NOISE,
        "device": platform.machine(),
        "python": platform.python_version(),
        "tables": found,
    }
    write_json(RESULTS / "analysis_default.json", result)


if __name__ == "__main__":
    main()
