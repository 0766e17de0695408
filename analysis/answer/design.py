"""Which trials to run next: those that shrink the uncertainty of the optimum most per FLOP.

The bootstrap draws of a fit say how the answer (ln of the optimal density) and the loss of every
candidate trial vary together. Treating that joint spread as Gaussian, running a candidate removes
cov(answer, loss)^2 / (var(loss) + noise) of the answer's variance; trials are chosen greedily by
that gain per cost, each conditioning the next (a replicate is a candidate chosen twice). It is a
linear view of a curved law: run a batch, refit, design again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from analysis.answer.costs import ACTIVE, Cost
from analysis.answer.optimum import Box, search
from analysis.data.points import Array, Points
from analysis.fit.intervals import Draws
from analysis.fit.starts import sequence

Target = Literal["density", "advantage"]


@dataclass(frozen=True)
class Design:
    """The chosen trials in order. rows: (k,) indices into the candidates. points: their
    coordinates.

    target: what the design pins down: ln of the optimal density, or, where that is the same for
    every draw (an edge of the box), the log-loss advantage of the sparse optimum over the dense
    one. sd: (k + 1,) its expected standard deviation before and after each trial. cost: (k,) of
    each trial, in `unit`.
    """

    rows: Array
    points: Points
    target: Target
    sd: Array
    cost: Array
    unit: str

    def plan(self) -> list[dict[str, Any]]:
        """The trials as plain records, which a sweep turns into its own specifications.

        `dense_equivalent` is N / density: a model's exact size also has its head and norms.
        """
        points = self.points
        return [
            {
                "active": float(points.active[i]),
                "dense_equivalent": float(points.active[i] / points.density[i]),
                "density": float(points.density[i]),
                "unique_tokens": round(float(points.unique[i])),
                "epochs": float(points.epochs[i]),
                "tokens": round(float(points.tokens[i])),
                "cost": float(self.cost[i]),
                "unit": self.unit,
                "target": self.target,
                "expected_sd_after": float(self.sd[i + 1]),
            }
            for i in range(len(points))
        ]


def design(
    draws: Draws,
    candidates: Points,
    trials: int,
    *,
    budget: float,
    unique: float | None,
    box: Box,
    cost: Cost = ACTIVE,
    limit: float | None = None,
    overhead: float = 0.0,
    replicates: int = 2,
    noise: float | None = None,
) -> Design:
    """Choose up to `trials` candidates. budget, unique, box: the optimum whose uncertainty is to
    shrink.

    limit: total cost of the chosen trials. overhead: what every trial costs beside its own cost
    (start-up, queueing, attention), in the same unit; without it many tiny trials are preferred to
    one of middle size. replicates: how often one candidate may be chosen; a linear view would
    repeat one cheap trial forever. noise: sd of log loss of one run (default: the fit's residual
    sd). Fewer trials are returned once no candidate within the limit helps. Raises ValueError for
    fewer than one trial, or if no draw has an optimum within the budget.
    """
    if trials < 1:
        raise ValueError(f"trials is {trials!r}; ask for at least one")
    law = draws.fit.law
    losses = law.log_loss(draws.theta, candidates)
    target, answer = _answer(draws, budget, unique, box, cost)
    known = np.isfinite(answer)
    if known.sum() < 10:
        raise ValueError(
            f"only {int(known.sum())} of {len(known)} draws have an optimum at budget {budget:.3g}; "
            f"raise the budget or widen the box"
        )
    covariance = np.cov(np.column_stack([losses[known], answer[known]]), rowvar=False)
    variance = (draws.noise if noise is None else noise) ** 2
    price = cost.of(candidates)
    # Correlation by chance is about 1 / sqrt(draws); a gain below twice its square is taken for
    # nothing.
    rows, sd = _greedy(
        covariance,
        variance,
        price + overhead,
        2.0 / known.sum(),
        trials,
        np.inf if limit is None else limit,
        replicates,
    )
    return Design(rows, candidates.take(rows), target, sd, price[rows], cost.unit)


def _greedy(
    covariance: Array, variance: float, price: Array, floor: float, trials: int, limit: float, replicates: int
) -> tuple[Array, Array]:
    """Rows chosen one after another by gain per price, and the answer's sd before and after each.

    covariance: (m + 1, m + 1) of m candidate losses and, last, the answer; every choice conditions
    it.
    """
    chosen: list[int] = []
    sds, spent = [float(np.sqrt(covariance[-1, -1]))], 0.0
    for _ in range(trials):
        gain = covariance[-1, :-1] ** 2 / (covariance.diagonal()[:-1] + variance)
        gain = np.maximum(gain - floor * covariance[-1, -1], 0.0) / price
        gain[np.bincount(np.array(chosen, dtype=int), minlength=len(gain)) >= replicates] = 0.0
        gain[spent + price > limit] = 0.0
        best = int(np.argmax(gain))
        if not gain[best] > 0:
            break
        column = covariance[:, best]
        covariance = covariance - np.outer(column, column) / (column[best] + variance)
        chosen.append(best)
        spent += float(price[best])
        sds.append(float(np.sqrt(max(covariance[-1, -1], 0.0))))
    return np.array(chosen, dtype=int), np.array(sds)


def _answer(draws: Draws, budget: float, unique: float | None, box: Box, cost: Cost) -> tuple[Target, Array]:
    """(k,) the answer of every draw, and what it is."""
    law, theta = draws.fit.law, draws.theta
    found = search(law, theta, box, budget, unique, cost)
    density = np.log(found.density)
    if not np.isfinite(density).any() or np.nanstd(density) > 1e-3 or box.density[1] < 1:
        return "density", density
    dense = search(law, theta, box.dense(), budget, unique, cost)
    return "advantage", np.log(dense.loss / found.loss)


def candidates_in(
    box: Box, uniques: Sequence[float], count: int = 400, cost: Cost = ACTIVE, most: float | None = None, seed: int = 0
) -> Points:
    """About `count` candidate trials spread over a box (log-uniform in N, density, epochs) and the
    given U.

    most: the largest cost of one trial. Raises ValueError if nothing in the box is that cheap.
    """
    unit = sequence(count, 4, seed)
    size, density, epochs = (
        np.exp(np.log(low) + unit[:, i] * np.log(high / low))
        for i, (low, high) in enumerate((box.active, box.density, box.epochs))
    )
    unique = np.asarray(uniques, dtype=float)[(unit[:, 3] * len(uniques)).astype(int)]
    points = Points(size, density, unique, unique * epochs)
    if most is not None:
        cheap = cost.of(points) <= most
        if not cheap.any():
            raise ValueError(
                f"no candidate in the box costs at most {most:.3g} {cost.unit}; the cheapest costs "
                f"{cost.of(points).min():.3g}"
            )
        points = points.take(cheap)
    return points
