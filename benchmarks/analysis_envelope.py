"""Is the envelope over settings right? Simulated tables with a known one, and two public tables.

Simulated: 24 points with 3, 5 and 8 random weight decays each and noise .02; the bias of the
envelope (the least row's beside it), and how near the best decay comes. The mean error of one table
says nothing: its sd is .003 to .007, most of it noise. So there are many, each twice, the second
time with the sign of its noise turned.
Public, where RAYSPARSE_SHARED_DATA names the folder that has them: `step_dense_all.csv` (rate x
batch at 17 points; the envelope from 8 random settings a point against the least of all settings,
which noise makes a little too low) and `had_last.csv` (R2 of a law on all rows and on the
envelope). The first has two losses. `loss` is that of the last batch: all runs of a point with one
batch size share its luck (sd .03), so that its least row is the luckiest batch and no run is that
good; `smooth loss` is judged, and the other one told beside it.
Writes results/analysis_envelope.json after every part. Where the command line names parts, only
those run, and the others stay as they are.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from analysis.answer.envelope import envelope
from analysis.answer.study import STUDY_DELTA
from analysis.data.files import dumps, write_json
from analysis.data.points import Array, Points
from analysis.data.settings import groups_of
from analysis.data.table import Runs, read_table
from analysis.fit import fit
from analysis.fit.select import choose_law
from analysis.laws import named
from benchmarks.settings_truths import TRUTHS, Truth

RESULTS = Path(__file__).parent / "results"
NOISE, FIRST = 0.02, 2000
TABLES = {3: 40, 5: 24, 8: 12}  # by settings a point: fewer settings, more noise
SEEDS = 5  # choices of eight settings at every point of the public table
ROLES = {"active": "N", "tokens": "D", "loss": "loss"}


def true_envelope(truth: Truth, points: Points) -> tuple[Array, Array]:
    """(n,) the least loss over weight decay at each point, and where it is."""
    grid = np.geomspace(0.02, 50.0, 2000)
    again = np.repeat(np.arange(len(points)), len(grid))
    decay = np.tile(grid, len(points))
    loss = truth.loss(points.take(again), {"weight_decay": decay}).reshape(len(points), -1)
    return loss.min(axis=1), grid[loss.argmin(axis=1)]


def two_tables(truth: Truth, each: int, seed: int) -> dict[str, Array]:
    """A simulated table and the one with its noise turned: (48,) errors of the envelope and of the
    least rows, nats; |ln| of the decay over the best one.
    """
    two = [one_table(truth, each, seed, noise) for noise in (NOISE, -NOISE)]
    return {name: np.concatenate([one[name] for one in two]) for name in two[0]}


def one_table(truth: Truth, each: int, seed: int, noise: float) -> dict[str, Array]:
    """(24,) each, of one table."""
    generator = np.random.default_rng(seed)
    points = truth.table(24, seed=seed).points.take(np.repeat(np.arange(24), each))
    decay = {"weight_decay": np.exp(generator.uniform(np.log(0.1), np.log(10), len(points)))}
    loss = truth.loss(points, decay) + noise * generator.standard_normal(len(points))
    found = envelope(Runs.from_arrays(points.active, points.density, points.unique, points.tokens, loss, decay))
    value, best = true_envelope(truth, found.runs.points)
    place = np.array([np.flatnonzero(points.tokens == tokens) for tokens in found.runs.points.tokens])
    return {
        "error": found.runs.loss - value,
        "least": loss[place].min(axis=1) - value,
        "factor": np.abs(np.log(found.settings["weight_decay"] / best)),
    }


def simulated(tables: list[dict[str, Array]]) -> dict[str, float]:
    error, least, factor = (np.concatenate([one[name] for one in tables]) for name in ("error", "least", "factor"))
    return {
        "tables": len(tables),
        "bias": float(np.mean(error)),
        "sd_of_bias": float(np.std([np.mean(one["error"]) for one in tables]) / np.sqrt(len(tables))),
        "rmse": float(np.sqrt(np.mean(np.square(error)))),
        "bias_of_least_row": float(np.mean(least)),
        "decay_within_1.5": float(np.mean(factor < np.log(1.5))),
    }


def one_choice(runs: Runs, seed: int) -> dict[str, Array]:
    """Eight random settings at every point, against the least of all: errors of the envelope and of
    the least row, nats; |ln| of the rate over that of the least of all.
    """
    group = groups_of(np.stack([runs.points.active, runs.points.tokens], axis=1), [])
    generator = np.random.default_rng(seed)
    some = [generator.permutation(np.flatnonzero(group == k))[:8] for k in range(group.max() + 1)]
    found = envelope(runs.take(np.concatenate(some)))
    told: dict[str, list[float]] = {"error": [], "least": [], "factor": []}
    for rows in some:
        here = np.flatnonzero(group == group[rows[0]])
        best = here[runs.loss[here].argmin()]
        q = found.runs.points
        at = np.flatnonzero((q.active == runs.points.active[best]) & (q.tokens == runs.points.tokens[best]))[0]
        told["error"].append(found.runs.loss[at] - runs.loss[best])
        told["least"].append(runs.loss[rows].min() - runs.loss[best])
        told["factor"].append(abs(np.log(found.settings["lr"][at] / runs.settings["lr"][best])))
    return {name: np.array(values) for name, values in told.items()}


def rate_and_batch(choices: list[dict[str, Array]]) -> dict[str, float]:
    error, least, factor = (np.concatenate([one[name] for one in choices]) for name in ("error", "least", "factor"))
    return {
        "choices": len(choices),
        "median_error": float(np.median(np.abs(error))),
        "mean_error": float(np.mean(error)),
        "median_error_of_least_row": float(np.median(least)),
        "median_factor_of_rate": float(np.exp(np.median(factor))),
        "rate_within_1.5": float(np.mean(factor < np.log(1.5))),
    }


def rates(path: Path) -> dict[str, Any]:
    """R2 of the plain law and of the chosen one, on all rows and on the envelope."""
    runs = read_table(path, ROLES)
    told: dict[str, Any] = {}
    for name, table in {"all_rows": runs, "envelope": envelope(runs).runs}.items():
        law = choose_law(table, delta=STUDY_DELTA)
        told |= {f"law_of_{name}": law.name, f"r2_of_{name}": fit(law, table, delta=STUDY_DELTA).r2}
        told[f"r2_of_{name}, chinchilla"] = fit(named("chinchilla"), table).r2
    return told


def parts() -> dict[str, Callable[[], Any]]:
    """What there is to measure, by its name in the results."""
    found: dict[str, Callable[[], Any]] = {
        f"{truth.name}, {each} settings a point": partial(on_truth, truth, each)
        for truth in TRUTHS
        if truth.settings == ("weight_decay",)
        for each in TABLES
    }
    folder = os.environ.get("RAYSPARSE_SHARED_DATA")
    if folder:
        public = Path(folder) / "public"
        for loss in ("smooth loss", "loss"):
            found[f"step_dense_all.csv, {loss}"] = partial(on_choices, public / "step_dense_all.csv", loss)
        found["had_last.csv"] = partial(rates, public / "had_last.csv")
    return found


def on_truth(truth: Truth, each: int) -> dict[str, float]:
    return simulated([two_tables(truth, each, seed) for seed in range(FIRST, FIRST + TABLES[each])])


def on_choices(path: Path, loss: str) -> dict[str, float]:
    runs = read_table(path, {**ROLES, "loss": loss})
    return rate_and_batch([one_choice(runs, seed) for seed in range(SEEDS)])


def main() -> None:
    names, known, path = sys.argv[1:], parts(), RESULTS / "analysis_envelope.json"
    for name in names:
        if name not in known:
            sys.exit(f"unknown part {name!r}; expected one of: {'; '.join(known)}")
    value: dict[str, Any] = json.loads(path.read_text()) if names else {}
    value |= {"command": "RAYSPARSE_SHARED_DATA=FOLDER python -m benchmarks.analysis_envelope", "noise": NOISE}
    for name in names or known:
        value[name] = known[name]()
        write_json(path, value)
        print(name, dumps(value[name]), flush=True)


if __name__ == "__main__":
    main()
