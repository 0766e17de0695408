"""Several laws and what they all miss, as one prediction with draws.

One law is what a report can explain; several predict better, because none of them is true. They are
weighed by how well each predicted rows it had not seen: non-negative weights of sum 1 that bring
the out-of-fold predictions nearest to the losses (stacking; Wolpert 1992, Breiman 1996). A Gaussian
process adds the smooth rest, and returns to zero away from the rows. The estimate is the average;
each bootstrap draw weighs anew and then believes in one law, drawn by these weights, refits it and
draws its own rest, so that an interval contains the choice: averages of the same laws hardly differ
from draw to draw. Laws and rest of a draw see the same resampled rows. What a loss does between two
levels of a plan no row tells; each draw has it otherwise (`gaps`). Rows that are outliers weigh
nothing. What is dearer than every row is extrapolated: by all of these laws, fitted with what is
known of exponents (`fit.known`) and weighed by 1 / squared out-of-fold error, because the mixture
that wins between rows does not win there, and with the rest of the nearest edge
(docs/experiments.md). Limits: draws move with the estimate there but do not weigh anew, and the
dearest row stands for the data's edge.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from numpy.typing import ArrayLike

from analysis.answer.gaps import Gap, gaps
from analysis.answer.paths import Paths, draw
from analysis.beside import ALONE, Alone
from analysis.data.axes import Frame
from analysis.data.points import Array, Points
from analysis.data.table import Runs
from analysis.fit.gaussian import fit_process
from analysis.fit.intervals import resample, small_sample, widened
from analysis.fit.joint import Fit
from analysis.fit.known import with_known
from analysis.fit.refit import refit, starting_points
from analysis.fit.select import Candidate, level_of

WORST = 2.0  # a law whose out-of-fold error is above this many times the best one's is not weighed
MOST = 5  # laws that are kept, by their mean weight over the draws
LEAST = 0.03  # ... and the mean weight that a law is kept from
EXACT = 1e3  # weight of the row that says that the weights sum to 1
ROWS = 800  # rows above which no rest is modelled: every draw takes n^3 steps
OVER = float(np.log(2.0))  # above the dearest row's N D, from where on only what extrapolates counts
QUIET = 0.5  # of the laws' residual spread is thought to be noise before the rest has spoken


@dataclass(frozen=True)
class Ensemble:
    """Laws, weights and rest. fits: the k laws; theta: for each, (b + 1, p) vectors, the fit's own
    first; weights: (b + 1, k). beyond: laws and their weights for what is dearer than every row.
    paths: the rest's process, None where the table is too large; pulls: (features + n, b + 1) its
    weights. gaps: between the plan's levels. bad: (n,) the outliers. converged: share of the draws.

    A row of `log_loss`'s `theta` is the number of a draw, 0 for the estimate.
    """

    runs: Runs
    fits: tuple[Fit, ...]
    theta: tuple[Array, ...]
    weights: Array
    beyond: tuple[tuple[Fit, float], ...]
    frame: Frame
    paths: Paths | None
    pulls: Array
    gaps: tuple[Gap, ...]
    bad: Array
    converged: float

    @property
    def grows(self) -> bool:
        """The rest may bend anywhere."""
        return False

    @property
    def numbers(self) -> Array:
        """(b + 1, 1) what stands for parameter vectors: the estimate, then the draws."""
        return np.arange(len(self.weights), dtype=float)[:, None]

    @property
    def parameters(self) -> float:
        """Free parameters of the laws, averaged by weight."""
        return float(self.weights[0] @ [len(fit.problem.free) for fit in self.fits])

    def interval(self, values: Array, estimate: ArrayLike, level: float = 0.95) -> tuple[Array, Array]:
        """Limits of anything computed for every draw, as `Draws.interval`; but the small-sample
        factor is that of 95 %, whatever share of the draws they enclose.
        """
        factor = small_sample(len(np.unique(self.runs.group)), self.parameters)
        return widened(values, estimate, factor, level)

    def log_loss(self, theta: Array, points: Points) -> Array:
        """(b, m) ln L of the draws numbered in `theta` (b, 1)."""
        rows = theta[:, 0].astype(int)
        columns = self._columns(points)
        told = self.laws(rows, points) + self.rest(rows, columns) + self._farther(points)
        return np.asarray(sum((gap.at(rows, columns) for gap in self.gaps), start=told))

    def _columns(self, points: Points) -> Array:
        """(m, p) coordinates of points that all draws share, or (b, m, p) of their own."""
        columns = self.frame.coordinates(_flat(points))
        shared = points.active.size == points.shape[-1]
        return columns if shared else columns.reshape(*points.shape, -1)

    def _farther(self, points: Points) -> Array:
        """(m,) or (b, m) what the laws of `beyond` say more than the estimate's, where points are
        dearer than every row.
        """
        spent, known = _spent(points), float(_spent(self.runs.points).max())
        if not (spent > known).any():
            return np.zeros(1)
        flat = _flat(points)
        told = [weight * fit.law.log_loss(fit.theta[None], flat)[0] for fit, weight in self.beyond]
        more = np.sum(told, axis=0) - self.laws(np.zeros(1, dtype=int), flat)[0]
        share = np.clip((spent - known) / OVER, 0.0, 1.0)
        return np.asarray(share * more.reshape(spent.shape))

    def laws(self, rows: Array, points: Points) -> Array:
        """(b, m) the weighed laws alone."""
        shared = points.active.size == points.shape[-1]
        total = np.zeros((len(rows), points.shape[-1]))
        for place, (fit, theta) in enumerate(zip(self.fits, self.theta, strict=True)):
            weight = self.weights[rows, place]
            mine = np.flatnonzero(weight)
            if len(mine):
                at = points if shared else points.take(mine)
                total[mine] += weight[mine, None] * fit.law.log_loss(theta[rows[mine]], at)
        return total

    def rest(self, rows: Array, columns: Array) -> Array:
        """(b, m) what the process adds at (m, p) coordinates, or at (b, m, p) of their own; outside
        the box of the rows, what it adds at the nearest edge.
        """
        if self.paths is None:
            return np.zeros((1, 1))
        bundle = self.paths.bundles[0]
        columns = np.clip(columns, -1.0, 1.0)
        basis = bundle.basis(columns.reshape(-1, columns.shape[-1]))
        centre = bundle.process.centre
        if columns.ndim == 2:
            return np.asarray(centre + (basis @ self.pulls[:, rows]).T)
        own = np.einsum("bmf,fb->bm", basis.reshape(*columns.shape[:2], -1), self.pulls[:, rows])
        return np.asarray(centre + own)


def ensemble(tried: Sequence[Candidate], draws: int = 100, seed: int = 0, beside: Alone = ALONE) -> Ensemble:
    """The laws that were cross-validated (`select.candidates`), weighed.

    Raises ValueError if none was.
    """
    able = [candidate for candidate in tried if candidate.fit is not None]
    if not able:
        raise ValueError("no law was fitted to this table; an ensemble needs at least one")
    bad = next(candidate.bad for candidate in able if candidate.bad is not None)
    best = min(candidate.rmse for candidate in able)
    able = [candidate for candidate in able if candidate.rmse <= WORST * best + 1e-12]
    fits = [candidate.fit for candidate in able if candidate.fit is not None]
    runs = fits[0].runs
    drawn = resample(runs.group, draws, np.random.default_rng(seed), "pairs")
    counts = np.concatenate([np.ones((1, len(runs))), drawn]) * ~bad
    unseen = np.stack([c.out_of_fold for c in able if c.out_of_fold is not None], axis=1)
    weights = np.stack([stack(unseen, runs.log_loss, row) for row in counts])
    shares = even(unseen, runs.log_loss, counts[0]).tolist()
    beyond = tuple(zip(beside.each(with_known, fits), shares, strict=True))
    kept = np.argsort(-weights[1:].mean(axis=0) - weights[0], kind="stable")[:MOST]
    kept = kept[np.maximum(weights[1:].mean(axis=0), weights[0])[kept] >= LEAST]
    fits, weights = [fits[i] for i in kept], np.stack([stack(unseen[:, kept], runs.log_loss, row) for row in counts])
    weights[1:] = _one_each(weights[1:], np.random.default_rng(seed + 1))
    theta, converged = zip(*beside.each(partial(_refits, drawn), fits, weights[1:].T), strict=True)
    laws = Ensemble(
        runs=runs,
        fits=tuple(fits),
        theta=theta,
        weights=weights,
        beyond=beyond,
        frame=Frame.of(runs.points, {}),
        paths=None,
        pulls=np.empty((0, 0)),
        gaps=(),
        bad=bad,
        converged=float(np.concatenate(converged).mean()),
    )
    return _with_gaps(_with_rest(laws, counts, seed), counts[1:], seed, beside)


def _one_each(weights: Array, generator: np.random.Generator) -> Array:
    """(b, k) a single 1 in each row, where a die with the row's weights falls."""
    die = generator.random((len(weights), 1))
    chosen = np.minimum((weights.cumsum(axis=1) < die).sum(axis=1), weights.shape[1] - 1)
    return np.asarray(np.eye(weights.shape[1])[chosen])


def _refits(drawn: Array, fit: Fit, weight: Array) -> tuple[Array, Array]:
    """(b + 1, p) vectors of a law, the fit's own first, refitted for the draws that it has a weight
    in, and whether each of those converged.
    """
    theta = np.tile(fit.theta, (len(drawn) + 1, 1))
    mine = np.flatnonzero(weight)
    if not len(mine):
        return theta, np.zeros(0, dtype=bool)
    found = refit(fit.problem, starting_points(fit), drawn[mine])
    theta[1 + mine] = fit.problem.full(found.free)
    return theta, found.converged


def stack(unseen: Array, target: Array, counts: Array) -> Array:
    """(k,) weights, none negative and of sum 1, of the (n, k) predictions that come nearest to the
    target, rows counted `counts` times.
    """
    from scipy.optimize import nnls

    scale = np.sqrt(counts)[:, None]
    spread = max(float(np.std(target)), 1e-12)
    rows = np.vstack([scale * (unseen - target[:, None]) / spread, np.full((1, unseen.shape[1]), EXACT)])
    found = nnls(rows, np.append(np.zeros(len(target)), EXACT))[0]
    return np.asarray(found / found.sum())


def even(unseen: Array, target: Array, counts: Array) -> Array:
    """(k,) weights in proportion to 1 / squared error of the (n, k) predictions, rows counted
    `counts` times.
    """
    squared = np.maximum(counts @ (unseen - target[:, None]) ** 2, 1e-24)
    return np.asarray(1 / squared / (1 / squared).sum())


def _spent(points: Points) -> Array:
    """ln of N D."""
    return points.log_active + points.log_tokens


def _flat(points: Points) -> Points:
    return Points(*(getattr(points, name).ravel() for name in ("active", "density", "unique", "tokens")))


def _with_rest(laws: Ensemble, counts: Array, seed: int) -> Ensemble:
    """counts: (b + 1, n) of the rows, the table's own first."""
    runs, good = laws.runs, ~laws.bad
    if good.sum() > ROWS:
        return laws
    residual = (runs.log_loss - laws.laws(np.arange(len(laws.weights)), runs.points)).T[good]
    spread = float(np.std(residual[:, 0]))
    if not spread > 1e-9:
        return laws
    inputs = laws.frame.coordinates(runs.points)[good]
    bowl, louder = np.zeros(inputs.shape[1]), np.ones(len(inputs))
    process = fit_process(inputs, residual[:, 0], QUIET * spread, bowl, louder)[0]
    paths = draw((process,), residual.shape[1] - 1, seed, residual[:, 1:], counts[1:, good].T)
    drawn = paths.bundles[0].weights
    mean = np.concatenate([np.zeros(len(drawn) - len(process.weights)), process.weights])
    return replace(laws, paths=paths, pulls=np.column_stack([mean, drawn]))


def _with_gaps(laws: Ensemble, counts: Array, seed: int, beside: Alone) -> Ensemble:
    """counts: (b, n) of each draw's rows."""
    runs, points = laws.runs, laws.runs.points
    values = (points.active, points.density, points.unique, points.epochs)
    numbers = [level_of(values[place]) for place in laws.frame.kept]

    def without(held: Array) -> Array:
        weighed = [(fit, weight) for fit, weight in zip(laws.fits, laws.weights[0], strict=True) if weight > 0]
        told = beside.each(partial(_without, held), [fit for fit, _ in weighed])
        return np.asarray(sum(weight * each for (_, weight), each in zip(weighed, told, strict=True)))

    found = gaps(laws.frame.coordinates(points), numbers, without, runs.log_loss, counts, seed)
    return replace(laws, gaps=found)


def _without(held: Array, fit: Fit) -> Array:
    """(k, n) ln L of all rows by the law fitted without those in each mask (k, n)."""
    found = refit(fit.problem, starting_points(fit), (~held).astype(float))
    return fit.law.log_loss(fit.problem.full(found.free), fit.runs.points)
