"""Are promises kept where few rows let no law guide? Real default sweeps and simulated tables.

`data/default_sweeps.csv` has the rows of twelve default sweeps (of several versions of the code)
and of what was trained from their answers. All of these rows and the real trials of `decay.csv`
make one smooth model, the stand-in for a truth that nobody has: its error in good runs, noise
included, is told by leaving out a sixth of the rows at a time. Each sweep's table is then asked
again, and so are random rows of the truths of `settings_truths`; the stand-in or the truth says
what the advised runs lose, with so many sds of caution (`analysis.answer.settings`). With the one
that is kept, both runs are trained (a draw of noise) and the table is asked once more, as a sweep
does, and that five times, for one draw says little. Limits: the stand-in has seen the tables that
it judges, a twelfth of its rows each, and is unsure by some .01 nats itself. Writes
results/promises.json; run `python -m benchmarks.promises` (twenty minutes).
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import ndtr

from analysis.answer import settings
from analysis.answer.choice import BestRun, Choice
from analysis.answer.costs import ACTIVE
from analysis.answer.surrogate import Surrogate, surrogate
from analysis.answer.warp import WIDE
from analysis.data.points import Array, Points
from analysis.data.table import Runs
from analysis.fit.gaussian import SPREAD
from benchmarks import record
from benchmarks.settings_truths import TRUTHS, UNIQUE
from raysparse import ladder

DATA = Path(__file__).parent / "data"
UNIQUE_REAL = 50_000.0
NOISE_REAL, NOISE = 0.024, 0.02  # of one training, nats
GOOD, BAD = 2.4, 3.0  # nats: what counts as a good run, and what the stand-in leaves out
FOLDS = 6
ROWS, TABLES, FIRST = 24, 8, 40  # of each simulated truth: rows a table, tables, seed of the first
DRAWS = 130
CAUTIONS = (0.0, 0.5, 1.0, 1.5, 2.0)
KEPT = settings.CAUTION
TRAININGS = 5  # of both runs of an answer, with the caution that is kept
Truth = Callable[[Points, Mapping[str, Array]], Array]


@dataclass(frozen=True)
class Question:
    """A table, what the loss of any run is in truth, and the sd of one training about it, nats."""

    runs: Runs
    budget: float
    unique: float
    truth: Truth
    noise: float


@dataclass
class Tally:
    """What was promised and what came: lists over runs, or over tables."""

    late: list[float] = field(default_factory=list)  # true loss minus the promised one
    inside: list[float] = field(default_factory=list)  # chance that one training is inside its interval
    mean_inside: list[bool] = field(default_factory=list)
    advised: list[float] = field(default_factory=list)  # true loss of the advised run
    shown: list[bool] = field(default_factory=list)
    held: list[bool] = field(default_factory=list)
    wrong: list[bool] = field(default_factory=list)

    def compare(self, best: BestRun, true: Mapping[str, float]) -> None:
        """Dense minus sparse, printed and true."""
        assert best.difference is not None
        difference = true["dense"] - true["sparse"]
        self.shown.append(best.shown)
        self.held.append(best.difference.low <= difference <= best.difference.high)
        self.wrong.append(best.shown and (difference > 0) != (best.difference.value > 0))


def real_rows() -> list[dict[str, float]]:
    """Rows of `default_sweeps.csv` with numbers; `sweep` and `final` say where each belongs."""
    with (DATA / "default_sweeps.csv").open() as lines:
        return [{k: float(v) for k, v in row.items() if k != "model"} for row in csv.DictReader(lines)]


def runs_of(rows: list[dict[str, float]]) -> Runs:
    active, density, unique, tokens, loss, rate, decay = (
        np.array([row[name] for row in rows])
        for name in (
            "params_active_non_embedding", "density", "unique_tokens", "tokens", "validation_loss", "lr",
            "weight_decay",
        )
    )  # fmt: skip
    return Runs.from_arrays(active, density, unique, tokens, loss, {"lr": rate, "weight_decay": decay})


def decay_rows() -> list[dict[str, float]]:
    """Rows of `decay.csv` at the rates of the ladder, without those of no decay, which over-fit by
    a nat.
    """
    rates = {
        size: ladder.dense_lr(ladder.model(size, vocab_size=257, context=128)) for size in ("laptop-s", "laptop-m")
    }
    with (DATA / "decay.csv").open() as lines:
        rows = [row for row in csv.DictReader(lines) if row["decay_per"] == "own_rate"]
    numbers = ({k: float(v) for k, v in r.items() if k not in ("trial_id", "decay_per", "model")} for r in rows)
    return [n | {"lr": rates[r["model"]]} for n, r in zip(numbers, rows, strict=True) if n["weight_decay"] > 0]


def stand_in(rows: list[dict[str, float]]) -> tuple[Surrogate, float]:
    """The smooth model of all real rows, each trial once, and its error in good runs when they are
    left out.
    """
    different = {
        tuple(v for k, v in row.items() if k not in ("sweep", "final", "validation_loss")): row for row in rows
    }
    runs = runs_of([row for row in [*different.values(), *decay_rows()] if row["validation_loss"] < BAD])

    def fitted(some: Runs, draws: int) -> Surrogate:
        return surrogate(some, share=WIDE, noise_sd=SPREAD, draws=draws)

    order, error = np.random.default_rng(0).permutation(len(runs)), np.zeros(len(runs))
    for fold in range(FOLDS):
        left_out = runs.take(order[fold::FOLDS])
        others = fitted(runs.take(np.setdiff1d(order, order[fold::FOLDS])), 0)
        error[order[fold::FOLDS]] = left_out.loss - others.predict(left_out.points, left_out.settings)[0]
    return fitted(runs, 12), float(np.sqrt(np.mean(error[runs.loss < GOOD] ** 2)))


def real_questions(rows: list[dict[str, float]], model: Surrogate) -> Iterator[Question]:
    for sweep in sorted({row["sweep"] for row in rows}):
        runs = runs_of([row for row in rows if row["sweep"] == sweep and not row["final"]])
        budget = float(ACTIVE.of(runs.points).max())
        yield Question(runs, budget, UNIQUE_REAL, lambda points, chosen: model.predict(points, chosen)[0], NOISE_REAL)


def simulated_questions() -> Iterator[Question]:
    for truth in TRUTHS:
        for seed in range(FIRST, FIRST + TABLES):
            runs = truth.table(ROWS, NOISE, seed)
            spent = ACTIVE.of(runs.points)
            for budget in (float(np.quantile(spent, 0.75)), float(spent.max())):
                yield Question(runs, budget, UNIQUE, truth.loss, NOISE)


def place(choice: Choice, unique: float) -> tuple[Points, dict[str, Array]]:
    """The chosen run as a point, with its settings."""
    at = (np.array([value.value]) for value in (choice.active, choice.density, choice.epochs))
    active, density, epochs = at
    point = Points.at(active, density, unique, unique * epochs)
    return point, {name: np.array([value.value]) for name, value in choice.settings.items()}


def with_trained(question: Question, best: BestRun, generator: np.random.Generator) -> Runs:
    """The table with one training of each of the two runs."""
    runs, points, losses = question.runs, [question.runs.points], [question.runs.loss]
    chosen = {name: [values] for name, values in runs.settings.items()}
    for choice in (best.dense, best.sparse):
        assert choice is not None
        point, values = place(choice, question.unique)
        points.append(point)
        losses.append(question.truth(point, values) + question.noise * generator.standard_normal(1))
        for name, column in chosen.items():
            column.append(values[name])
    active, density, unique, tokens = (
        np.concatenate([getattr(p, name) for p in points]) for name in ("active", "density", "unique", "tokens")
    )
    settings_of_all = {name: np.concatenate(column) for name, column in chosen.items()}
    return Runs.from_arrays(active, density, unique, tokens, np.concatenate(losses), settings_of_all)


def ask(question: Question, first: Tally, last: Tally, trainings: int, seed: int) -> None:
    """The answer, and as often as `trainings` the one with both its runs trained."""
    generator = np.random.default_rng(seed)
    if (best := answered(question, question.runs, first)) is None:
        return
    for _ in range(trainings):
        answered(question, with_trained(question, best, generator), last)


def answered(question: Question, runs: Runs, tally: Tally) -> BestRun | None:
    """What is said of `runs`, held against the truth; None where one kind of run is missing."""
    best = settings.answer(runs, budget=question.budget, unique=question.unique, cost=ACTIVE, draws=DRAWS)
    if best.dense is None or best.sparse is None:
        return None
    true = {}
    for kind, choice in (("dense", best.dense), ("sparse", best.sparse)):
        true[kind] = is_ = float(question.truth(*place(choice, question.unique))[0])
        tally.late.append(is_ - choice.expected.value)
        tally.mean_inside.append(choice.expected.low <= is_ <= choice.expected.high)
        chances = ndtr((np.array([choice.loss.low, choice.loss.high]) - is_) / question.noise)
        tally.inside.append(float(chances[1] - chances[0]))
    better = "dense" if best.dense.expected.value < best.sparse.expected.value else "sparse"
    tally.advised.append(true[better])
    tally.compare(best, true)
    return best


def row(what: str, caution: float, tally: Tally) -> dict[str, Any]:
    return {
        "tables": what, "caution sds": caution, "answers": len(tally.advised),
        "promise too low": float(np.mean(tally.late)), "sd of that": float(np.std(tally.late)),
        "mean inside": float(np.mean(tally.mean_inside)), "training inside": float(np.mean(tally.inside)),
        "loss of the advised run": float(np.mean(tally.advised)),
        "its 95 %": float(np.quantile(tally.advised, 0.95)), "difference held": float(np.mean(tally.held)),
        "difference shown": float(np.mean(tally.shown)), "with the wrong sign": int(np.sum(tally.wrong)),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--caution", type=float, nargs="+", default=CAUTIONS, help="sds (default: %(default)s)")
    args = parser.parse_args()
    real = real_rows()
    model, error = stand_in(real)
    sources = {"default sweeps": [*real_questions(real, model)], "random rows": [*simulated_questions()]}
    fixed = {"stand-in rows": len(model.runs), "stand-in error, good runs left out": error}
    found = []
    for caution in args.caution:
        settings.CAUTION = caution
        for what, questions in sources.items():
            first, last = Tally(), Tally()
            for seed, question in enumerate(questions):
                ask(question, first, last, TRAININGS if caution == KEPT else 0, seed)
            told = [row(what, caution, first)]
            if last.advised:
                told.append(row(f"{what}, both trained", caution, last))
            print(*told, sep="\n", flush=True)
            found += [fixed | each for each in told]
    print(record.save("promises", found))


if __name__ == "__main__":
    main()
