"""Which trials to run next: those that shrink the uncertainty of the answer most per FLOP.

The bootstrap draws of a fit say how the answer and the loss of every candidate trial vary together.
Treating that joint spread as Gaussian, running a candidate removes cov(answer, loss)^2 / (var(loss)
+ noise) of the answer's variance; trials are chosen greedily by that gain per cost, each
conditioning the next (a replicate is a candidate chosen twice). An answer is one number (the
optimal density, what sparsity gains, an exponent) or many (the losses of a target region, whose
mean variance then counts). It is a linear view of a curved law: run a batch, refit, design again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from analysis.answer.costs import ACTIVE, Cost
from analysis.answer.optimum import Box, search
from analysis.data.points import Array, Points
from analysis.data.table import Runs
from analysis.fit.intervals import Draws
from analysis.fit.starts import sequence

Aim = Literal["optimum", "saving", "exponent", "region"]
AIMS: tuple[Aim, ...] = ("optimum", "saving", "exponent", "region")
TARGETS = {  # what `Design.value` is; its sd is always that of the logarithm
    "density": "the optimal density",
    "advantage": "ln of dense over sparse loss, each at its best",
    "exponent": "a of N_opt ~ C^a",
    "region": "ln loss of the target region",
}


class TooFewDrawsError(ValueError):
    """Too few draws of the fit have an optimum within the budget to know anything of it."""


class TooDearError(ValueError):
    """No candidate of a box is as cheap as it has to be."""


@dataclass(frozen=True)
class Design:
    """The chosen trials in order. rows: (k,) indices into the candidates. points: their
    coordinates.

    target: what the design pins down, a key of `TARGETS`. value: its estimate (of a region: the
    mean). sd: (k + 1,) expected standard deviation of its logarithm (of a region: root mean square)
    before and after each trial. cost: (k,) of each trial, in `unit`.
    """

    rows: Array
    points: Points
    target: str
    value: float
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
    aim: Aim = "optimum",
    region: Points | None = None,
) -> Design:
    """Choose up to `trials` candidates for an aim. budget, unique, box: the optimum whose
    uncertainty is to shrink.

    aim: "optimum" is the optimal density, or, where that is the same for every draw (an edge of the
    box), what sparsity gains over dense; "saving" is always the latter; "exponent" is a of N_opt ~
    C^a; "region" the losses at `region`. limit: total cost of the chosen trials. overhead: what
    every trial costs beside its own cost (start-up, queueing, attention), in the same unit; without
    it many tiny trials are preferred to one of middle size. replicates: how often one candidate may
    be chosen; a linear view would repeat one cheap trial forever. noise: sd of log loss of one run
    (default: the fit's residual sd). Fewer trials are returned once no candidate within the limit
    helps.

    Raises ValueError for fewer than one trial, an unknown aim, a region that is missing, an
    exponent asked of a law that ties it; TooFewDrawsError if fewer than ten draws have an optimum
    within the budget.
    """
    target, estimate, answers = _answers(draws, aim, region, budget, unique, box, cost)
    known = np.asarray(np.isfinite(answers).all(axis=1))
    if known.sum() < 10:
        raise TooFewDrawsError(
            f"only {int(known.sum())} of {len(known)} draws have an optimum at budget {budget:.3g}; "
            f"raise the budget or widen the box"
        )
    losses = draws.fit.law.log_loss(draws.theta[known], candidates)
    price = cost.of(candidates)
    spread = draws.noise if noise is None else noise
    rows, sd = choose_trials(losses, answers[known], spread, price + overhead, trials, limit, replicates)
    return Design(rows, candidates.take(rows), target, estimate, sd, price[rows], cost.unit)


def choose_trials(
    losses: Array,
    answers: Array,
    noise: float,
    price: Array,
    trials: int,
    limit: float | None = None,
    replicates: int = 2,
) -> tuple[Array, Array]:
    """Rows chosen one after another by gain per price, and the answers' root mean square sd before
    and after each.

    losses: (b, m) ln loss of m candidates in b draws; answers: (b, t). Raises ValueError for fewer
    than one trial.
    """
    if trials < 1:
        raise ValueError(f"trials is {trials!r}; ask for at least one")
    many = losses.shape[1]
    joint = np.cov(np.column_stack([losses, answers]), rowvar=False)
    # Correlation by chance is about 1 / sqrt(draws); a gain below twice its square is taken for
    # nothing.
    floor, most = 2.0 / len(losses), np.inf if limit is None else limit
    chosen: list[int] = []
    sds, spent = [_spread(joint, many)], 0.0
    for _ in range(trials):
        own = joint.diagonal()
        heard = own[:many] + noise**2  # 0 for what is known already
        gain = joint[many:, :many] ** 2 / np.where(heard > 0, heard, np.inf) - floor * own[many:, None]
        gain = np.maximum(gain, 0.0).sum(axis=0) / price
        gain[np.bincount(np.array(chosen, dtype=int), minlength=many) >= replicates] = 0.0
        gain[spent + price > most] = 0.0
        best = int(np.argmax(gain))
        if not gain[best] > 0:
            break
        column = joint[:, best]
        joint = joint - np.outer(column, column) / (column[best] + noise**2)
        chosen.append(best)
        spent += float(price[best])
        sds.append(_spread(joint, many))
    return np.array(chosen, dtype=int), np.array(sds)


def _spread(joint: Array, many: int) -> float:
    """Root mean square sd of what follows the first `many` of a joint covariance."""
    return float(np.sqrt(np.maximum(joint.diagonal()[many:], 0.0).mean()))


def _answers(
    draws: Draws, aim: Aim, region: Points | None, budget: float, unique: float | None, box: Box, cost: Cost
) -> tuple[str, float, Array]:
    """What is pinned down, its estimate, and (b, t) its values in every draw."""
    fit = draws.fit
    theta = np.concatenate([fit.theta[None], draws.theta])
    if aim == "region":
        if region is None:
            raise ValueError("aim 'region' needs the points of a region; give a table of them")
        values = fit.law.log_loss(theta, region)
        return "region", float(values[0].mean()), values[1:]
    if aim == "exponent":
        if fit.law.tied:
            raise ValueError(
                f"law {fit.law.name!r} ties alpha and beta, which alone says what a is; choose an untied law"
            )
        alpha, beta = (theta[:, [fit.law.names.index(name)]] for name in ("alpha", "beta"))
        values = np.log(beta / cost.tokens / (alpha + beta * cost.size / cost.tokens))
        return "exponent", float(np.exp(values[0, 0])), values[1:]
    if aim not in AIMS:
        raise ValueError(f"aim is {aim!r}; expected one of {', '.join(AIMS)}")
    found = search(fit.law, theta, box, budget, unique, cost)
    density = np.log(found.density[:, None])
    if aim == "optimum" and np.isfinite(density).any() and (np.nanstd(density) > 1e-3 or box.density[1] < 1):
        return "density", float(found.density[0]), density[1:]
    dense = search(fit.law, theta, box.dense(), budget, unique, cost)
    sparse = found if aim == "optimum" else search(fit.law, theta, _sparser(box, fit.runs), budget, unique, cost)
    gained = np.log(dense.loss / sparse.loss)[:, None]
    return "advantage", float(gained[0, 0]), gained[1:]


def _sparser(box: Box, runs: Runs) -> Box:
    """The box without what is denser than the densest sparse run."""
    below = runs.points.density[runs.points.density < 1]
    most = min(box.density[1], float(below.max())) if len(below) else box.density[1]
    return replace(box, density=(min(box.density[0], most), most))


def candidates_in(
    box: Box,
    uniques: Sequence[float],
    count: int = 400,
    cost: Cost = ACTIVE,
    most: float | None = None,
    seed: int = 0,
    tokens: tuple[float, float] | None = None,
) -> Points:
    """About `count` candidate trials spread over a box (log-uniform in N, density, epochs) and the
    given U.

    most: the largest cost of one trial. tokens: how many it may train, where U times epochs should
    not say it alone. Raises ValueError if nothing in the box trains as many, TooDearError if
    nothing is that cheap.
    """
    unit = sequence(count, 4, seed)
    size, density, epochs = (
        np.exp(np.log(low) + unit[:, i] * np.log(high / low))
        for i, (low, high) in enumerate((box.active, box.density, box.epochs))
    )
    unique = np.asarray(uniques, dtype=float)[(unit[:, 3] * len(uniques)).astype(int)]
    points = Points(size, density, unique, unique * epochs)
    if tokens is not None:
        inside = (points.tokens >= tokens[0]) & (points.tokens <= tokens[1])
        if not inside.any():
            raise ValueError(
                f"no candidate in the box trains {tokens[0]:.3g} to {tokens[1]:.3g} tokens; they train "
                f"{points.tokens.min():.3g} to {points.tokens.max():.3g}: widen the tokens or the epochs"
            )
        points = points.take(inside)
    if most is not None:
        cheap = cost.of(points) <= most
        if not cheap.any():
            raise TooDearError(
                f"no candidate in the box costs at most {most:.3g} {cost.unit}; the cheapest costs "
                f"{cost.of(points).min():.3g}"
            )
        points = points.take(cheap)
    return points
