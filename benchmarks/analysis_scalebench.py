"""How well do designed runs predict the costly ones? The protocol of ScaleBench (arXiv 2604.22753).

A pool of real runs, a target region (costly runs, never shown), and a budget that is a share of the
pool's whole cost. Runs are bought from the pool one batch after another by `design` for the losses
of the region, a model is fitted to what was bought, and R2 on the region is scored, no lower than
-1 as in the paper; ten repeats from random cheap starts. Beside it: the same model on runs that
were bought in random order, and on the whole pool.

Three pools. Runs on repeated data (tests/analysis/data/datablations_fit182.csv) with the region of
the published table, which its repository and that of its data give: the two largest sizes and the
two greatest numbers of tokens, 21 rows; answered by the average of two laws. The same rows with
another region of 21, the costliest: all of low loss, so that R2 asks for more, and no other's
figures exist. And sparse upcycling, where a path to that table is given with --upcycling (its
region is the 18 rows marked `test`; a run costs its dense training, too), answered by the model
that answers tables with settings. The published bests stand in the results for comparison; they are
the paper's numbers, means over its laws, and not reproduced here. Writes
results/analysis_scalebench.json; run `python -m benchmarks.analysis_scalebench --upcycling FILE`.
"""

from __future__ import annotations

import argparse
import platform
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from analysis.answer.costs import ACTIVE
from analysis.answer.design import choose_trials
from analysis.answer.ensemble import ensemble
from analysis.answer.guided import guided
from analysis.answer.paths import draw
from analysis.data.files import write_json
from analysis.data.points import Array
from analysis.data.table import Runs, read_table
from analysis.fit.select import candidates

RESULTS = Path(__file__).parent / "results"
REPEATED = Path(__file__).parent.parent / "tests" / "analysis" / "data" / "datablations_fit182.csv"
COSTLY = 21  # rows of our own region of the first pool, as many as in the published one
WORST = -1.0  # no R2 counts as lower
ROUNDS = 2  # batches in which the budget is spent
PILOT = 0.15  # of the budget is spent on the start, on runs that cost at most ...
CHEAP = 0.02  # ... this share of it each
LEAST = 8  # runs that a start has at least
DRAWS = 40
DENSE = ("data_constrained_untied", "repeated_overfit_linear")
PUBLISHED = {
    "repeated": {"0.01": 0.73, "0.05": 0.85, "0.1": 0.86, "all": 0.79},
    "repeated, random": {"0.01": -0.74, "0.05": -0.36, "0.1": 0.12},
    "upcycling": {"0.2": 0.31, "0.35": 0.44, "0.5": 0.53, "all": 0.37},
    "upcycling, random": {"0.2": -0.25, "0.35": 0.37, "0.5": 0.38},
}
# Bought runs, runs that are asked about -> (m,) losses and (b, m) draws of their logarithms.
Model = Callable[[Runs, Runs], tuple[Array, Array]]


@dataclass(frozen=True)
class Pool:
    """runs: all rows. target: (n,) which are the region. cost: (n,)."""

    runs: Runs
    target: Array
    cost: Array
    model: Model

    @property
    def budget(self) -> float:
        """Cost of all that can be bought."""
        return float(self.cost[~self.target].sum())


def by_laws(bought: Runs, asked: Runs) -> tuple[Array, Array]:
    """The average of two dense laws, weighed on rows not seen; where the bought rows carry neither,
    their mean loss.
    """
    tried = candidates(bought, delta=1e-2, names=DENSE)
    if all(candidate.fit is None for candidate in tried):
        return np.full(len(asked), bought.loss.mean()), np.zeros((DRAWS, len(asked)))
    laws = ensemble(tried, DRAWS)
    logs = laws.log_loss(laws.numbers, asked.points)
    return np.exp(logs[0]), logs[1:]


def by_guided(bought: Runs, asked: Runs) -> tuple[Array, Array]:
    """The smooth model over coordinates, by laws where rows suffice."""
    model = guided(bought)
    columns = model.columns(asked.points, asked.settings)
    drawn = model.warp.outward(draw(model.processes, DRAWS, 0).at(columns), model.base(columns))
    return model.moments(columns)[0], np.log(drawn)


def start(pool: Pool, budget: float, generator: np.random.Generator) -> list[int]:
    """Random cheap runs for a share of the budget."""
    order = generator.permutation(np.flatnonzero(~pool.target & (pool.cost <= CHEAP * budget)))
    spent = np.cumsum(pool.cost[order])
    return [int(row) for row in order[: max(LEAST, int((spent <= PILOT * budget).sum()))]]


def at_random(pool: Pool, budget: float, generator: np.random.Generator) -> list[int]:
    """Runs in random order, each that the budget still holds."""
    bought, spent = [], 0.0
    for row in generator.permutation(np.flatnonzero(~pool.target)):
        if spent + pool.cost[row] <= budget:
            bought.append(int(row))
            spent += float(pool.cost[row])
    return bought


def designed(pool: Pool, budget: float, generator: np.random.Generator) -> list[int]:
    """A cheap start, then batches chosen for the region."""
    bought = start(pool, budget, generator)
    for number in range(ROUNDS):
        left = budget - float(pool.cost[bought].sum())
        others = np.setdiff1d(np.flatnonzero(~pool.target), bought)
        others = others[pool.cost[others] <= left]
        if not len(others):
            break
        _, draws = pool.model(pool.runs.take(bought), pool.runs)
        noise = float(np.median(draws[:, bought].std(axis=0)))
        limit = left / (ROUNDS - number)
        limit = max(limit, float(pool.cost[others].min()))
        answers = draws[:, pool.target]
        rows, _ = choose_trials(draws[:, others], answers, noise, pool.cost[others], len(others), limit, 1)
        bought += [int(row) for row in others[rows]]
    return bought


def score(pool: Pool, bought: list[int]) -> float:
    """R2 on the target region, at least `WORST`."""
    region = pool.runs.take(pool.target)
    predicted, _ = pool.model(pool.runs.take(bought), region)
    r2 = 1 - np.sum((predicted - region.loss) ** 2) / np.sum((region.loss - region.loss.mean()) ** 2)
    return float(np.maximum(WORST, r2))


def study(pool: Pool, shares: list[float], repeats: int) -> dict[str, Any]:
    """R2 by share and way of buying."""
    found: dict[str, Any] = {
        "rows": len(pool.runs),
        "region": int(pool.target.sum()),
        "all": score(pool, np.flatnonzero(~pool.target).tolist()),
    }
    for share in shares:
        budget = share * pool.budget
        told: dict[str, Any] = {}
        for name, buy in (("designed", designed), ("random", at_random)):
            sets = [buy(pool, budget, np.random.default_rng(seed)) for seed in range(repeats)]
            scores = np.array([score(pool, rows) for rows in sets])
            spent = [float(pool.cost[rows].sum() / pool.budget) for rows in sets]
            told[name] = {
                "r2": scores,
                "mean": scores.mean(),
                "median": np.median(scores),
                "runs": float(np.mean([len(rows) for rows in sets])),
                "largest_share_spent": max(spent),
            }
            print(f"  {share:g} {name:9} R2 {scores.mean():.3f} (median {np.median(scores):.3f})", file=sys.stderr)
        found[str(share)] = told
    return found


def repeated() -> dict[str, Pool]:
    """Runs on repeated data, by the region that is asked about."""
    runs = read_table(REPEATED, {"active": "params"})
    p, cost = runs.points, ACTIVE.of(runs.points)
    published = (p.active >= np.unique(p.active)[-2]) | (p.tokens >= np.unique(p.tokens)[-2])
    costliest = np.zeros(len(runs), dtype=bool)
    costliest[np.argsort(cost, kind="stable")[-COSTLY:]] = True
    regions = {"repeated": published, "repeated, costliest": costliest}
    return {name: Pool(runs, target, cost, by_laws) for name, target in regions.items()}


def upcycling(path: Path) -> Pool:
    """Dense models whose training went on as sparse ones."""
    from pyarrow import csv

    table = csv.read_csv(path)
    of = {name: np.array(table[name].to_pylist()) for name in table.column_names}
    tokens, active = 1e9 * of["sparse_tokens_B"], 1e9 * of["active_params_B"]
    runs = Runs.from_arrays(active, of["density_active"], tokens, tokens, of["loss"])
    before = 6e18 * of["dense_params_B"] * of["dense_tokens_B"]
    return Pool(runs, of["split"] == "test", ACTIVE.of(runs.points) + before, by_guided)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--upcycling", type=Path, default=None, metavar="FILE", help="the table of sparse upcycling")
    options = parser.parse_args()
    began = time.perf_counter()
    pools = {name: (pool, [0.01, 0.05, 0.1]) for name, pool in repeated().items()}
    if options.upcycling is not None:
        pools["upcycling"] = (upcycling(options.upcycling), [0.2, 0.35, 0.5])
    found = {}
    for name, (pool, shares) in pools.items():
        print(name, file=sys.stderr)
        found[name] = study(pool, shares, options.repeats)
    result = {
        "command": f"python -m benchmarks.analysis_scalebench --upcycling FILE --repeats {options.repeats}",
        "pools": found,
        "published": PUBLISHED,
        "repeats": options.repeats,
        "machine": platform.machine(),
        "python": platform.python_version(),
        "seconds": time.perf_counter() - began,
    }
    write_json(RESULTS / "analysis_scalebench.json", result)


if __name__ == "__main__":
    main()
