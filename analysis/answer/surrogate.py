"""One smooth model of the loss over size, density, unique tokens, epochs *and* settings.

The sampler of a search and the final answer read the same model: a Gaussian process with a
quadratic prior mean over logarithms (`gaussian`), so that the best weight decay moves with ln N,
ln d, ln U and ln epochs, on losses that count as nats near good runs and as logarithms far above
them (`warp`). Its constants were chosen on simulated tables and on one of real runs
(benchmarks/analysis_settings.py). Left out: budgets and intervals of optima (`settings`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from numpy.typing import ArrayLike

from analysis.answer.ensemble import Ensemble
from analysis.answer.paths import Paths
from analysis.answer.warp import WIDE, WIDTH, Warp
from analysis.data.axes import Frame
from analysis.data.points import Array, Points
from analysis.data.table import Runs
from analysis.fit.gaussian import NONE, SPREAD, Process, Trend, fit_process, spread

LEAST_ROWS = 5
NOISE = 0.01  # of the loss: what a seed moves, before the rows have spoken
NOISE_SD = 0.5  # of its logarithm: two dozen rows, which a smooth surface follows, do not tell it
SEEDS = 4  # replicates that NOISE counts for beside those of the table, fewer where these are more
WILD = 3.0  # times NOISE: no group of replicates counts for more, on average (a diverged run is no noise)
DRAWS = 12  # processes beside the likeliest one
CANDIDATES = 128  # settings tried at every point before the search narrows
LEVELS = 7  # how often it narrows, each time by half
CHUNK = 200_000  # candidates looked at together


@dataclass(frozen=True)
class Surrogate:
    """A fitted model of the loss. noise: sd between replicates of one run near the best, nats.
    aside: rows that were left out because they are far from what the others say (`guided`).
    """

    runs: Runs
    frame: Frame
    warp: Warp
    processes: tuple[Process, ...]
    seed: int = 0
    aside: Runs | None = None

    @property
    def process(self) -> Process:
        """The likeliest of `processes`."""
        return self.processes[0]

    @property
    def settings(self) -> tuple[str, ...]:
        """Names of the settings, in the order of the table."""
        return self.frame.names

    @property
    def guided(self) -> bool:
        """Whether laws carry the coordinates."""
        return self.process.trend.columns > 0

    @property
    def noise(self) -> float:
        return self.process.noise

    @property
    def thought(self) -> float:
        """The noise that is thought of before the rows have spoken, nats."""
        return NOISE * float(self.runs.loss.min())

    @property
    def least_noise(self) -> float:
        """Sd between seeds of one run that is believed at least, nats: of the replicates and what
        was thought beforehand. 0 where laws guide.

        Few rows let a smooth surface follow them all, and then its own noise is too small.
        """
        if self.guided:
            return 0.0
        _, group = np.unique(self.runs.group, return_inverse=True)
        rows = np.bincount(group)
        middle = np.bincount(group, self.runs.loss) / rows
        squares = np.bincount(group, (self.runs.loss - middle[group]) ** 2)
        told, replicates = np.minimum(squares, (rows - 1) * (WILD * self.thought) ** 2), int((rows - 1).sum())
        seeds = SEEDS * min(1.0, SEEDS / max(replicates, 1))
        return float(np.sqrt((seeds * self.thought**2 + told.sum()) / (seeds + replicates)))

    def predict(self, points: Points, settings: Mapping[str, ArrayLike]) -> tuple[Array, Array]:
        """Mean and sd of the *expected* loss (without a run's noise) at n points: (n,) each, nats.

        settings: a value, or n of them, for every name in `self.settings`.
        Raises ValueError for a setting that is missing, unknown or out of its domain.
        """
        return self.moments(self.columns(points, settings))

    def away(self, runs: Runs) -> Array:
        """(n,) sds by which rows that the model has not seen are off from what it expects of them,
        a row's noise included.
        """
        columns = self.columns(runs.points, runs.settings)
        value = self.warp.inward(runs.loss, self.base(columns))
        mean, sd = self.process.predict(columns)
        return np.asarray((value - mean) / np.hypot(sd, self.noise * self.warp.loudness(value, self.thought)))

    def improvement(self, points: Points, settings: Mapping[str, ArrayLike], below: float) -> Array:
        """(n,) expected improvement E[max(below - L, 0)] of the expected loss, nats.

        In closed form, see `warp`.
        """
        columns = self.columns(points, settings)
        return self.warp.improvement(*self.warped(columns), self.base(columns), below)

    def best_settings(self, points: Points) -> tuple[dict[str, Array], Array, Array]:
        """For each of n points the settings of least expected loss, and that loss: a dictionary of
        (n,) values by name, mean (n,) and sd (n,), nats.

        The search is continuous, inside the range that was tried and a little beyond.
        """
        fixed = self.frame.coordinates(points)
        chosen = self._descend(fixed)
        return self.frame.named(chosen), *self.moments(np.hstack([fixed, chosen]))

    def warped(self, columns: Array) -> tuple[Array, Array]:
        """Mean and sd of the warped expected loss, over all processes: (n,) each."""
        means, sds = zip(*(process.predict(columns) for process in self.processes), strict=True)
        return np.mean(means, axis=0), np.sqrt(np.mean(np.square(sds), axis=0) + np.var(means, axis=0))

    def base(self, columns: Array) -> Array:
        """(n,) the base of the warped loss at the model's columns, nats."""
        return self.warp.base(columns[..., : len(self.frame.kept)])

    def moments(self, columns: Array) -> tuple[Array, Array]:
        """Mean and sd of the expected loss at the model's columns: (n,) each, nats."""
        return self.warp.moments(*self.warped(columns), self.base(columns))

    def drawn(self, paths: Paths, columns: Array) -> Array:
        """(b, n) expected loss, nats, of functions drawn from the processes, at (n, k) columns.

        Where a process thinks seeds to move less than is believed (`least_noise`), its draws are
        wider by the root of that factor: near a row their width goes with the noise, far from all
        rows it does not, and the root lies between.
        """
        mean = self.moments(columns)[0]
        losses = self.warp.outward(paths.at(columns), self.base(columns))
        wider = np.sqrt(np.maximum(self.least_noise / self.noises(paths), 1.0))
        return np.asarray(mean + wider[:, None] * (losses - mean))

    def noises(self, paths: Paths) -> Array:
        """(b,) sd of a run, nats, by the process of each drawn function."""
        return np.repeat([process.noise for process in self.processes], len(paths) // len(self.processes))

    def columns(self, points: Points, settings: Mapping[str, ArrayLike]) -> Array:
        """(n, k) the model's own columns."""
        return np.hstack([self.frame.coordinates(points), self.frame.settings(settings, len(points))])

    def _descend(self, fixed: Array) -> Array:
        """(n, m) columns of the settings with the least mean at each row of `fixed`."""
        low, high = self.frame.limits()
        if not len(low):
            return np.empty((len(fixed), 0))
        cube = spread(len(low), CANDIDATES, self.seed)
        tried = np.broadcast_to(low + (high - low) * cube, (len(fixed), len(cube), len(low)))
        at = self._pick(fixed, tried)
        width = (high - low) / (8 if len(low) == 1 else 2)
        for _ in range(LEVELS):
            around = at[:, None, :] + width * (2 * spread(len(low), 8 * len(low), self.seed + 1) - 1)
            tried = np.concatenate([at[:, None, :], np.clip(around, low, high)], axis=1)
            at = self._pick(fixed, tried)
            width = width * 0.5
        switches = np.array([axis.switch for axis in self.frame.axes])
        return np.where(switches, np.sign(at), at)

    def _pick(self, fixed: Array, tried: Array) -> Array:
        """(n, m) the best of (n, t, m) candidates at each row."""
        each = max(1, CHUNK // tried.shape[1])
        picked = []
        for begin in range(0, len(fixed), each):
            some, part = fixed[begin : begin + each], tried[begin : begin + each]
            rows = np.concatenate([np.broadcast_to(some[:, None], (*part.shape[:2], some.shape[1])), part], axis=2)
            mean = self.process.mean(rows.reshape(-1, rows.shape[2])).reshape(part.shape[:2])
            picked.append(part[np.arange(len(part)), mean.argmin(axis=1)])
        return np.concatenate(picked) if picked else np.empty((0, tried.shape[2]))


def surrogate(
    runs: Runs,
    *,
    laws: Ensemble | None = None,
    share: float = WIDTH,
    seed: int = 0,
    unsure: Array | None = None,
    noise: float | None = None,
    noise_sd: float = NOISE_SD,
    draws: int = DRAWS,
) -> Surrogate:
    """Fit the model to `runs` and their settings; same rows and seed, same model.

    laws: of well-set runs; the model is then theirs plus what settings cost and what they miss, and
    each of its processes believes in another draw of them. share: see `Warp.of`. unsure: (n,) nats
    by which a smooth model is thought to miss each row beside the noise; default: by how far above
    the base it is (`Warp.loudness`). noise: what is thought of it beforehand, nats; noise_sd: of
    its logarithm.
    Raises ValueError for fewer than five rows.
    """
    if len(runs) < LEAST_ROWS:
        raise ValueError(
            f"{len(runs)} usable rows; a model of the settings needs at least {LEAST_ROWS}, train more runs"
        )
    frame = Frame.of(runs.points, runs.settings)
    coordinates = frame.coordinates(runs.points)
    warp = Warp.of(coordinates, runs.loss, share)
    if laws is not None:
        warp = replace(warp, base=Expected(laws, frame))
    columns = np.hstack([coordinates, frame.settings(runs.settings, len(runs))])
    values = warp.inward(runs.loss, warp.base(coordinates))
    noise = noise or NOISE * float(runs.loss.min())
    louder = warp.loudness(values, noise) if unsure is None else warp.steepness(values) * np.hypot(1.0, unsure / noise)
    bowl = np.repeat([0.0, 1.0], [len(frame.kept), len(frame.axes)])
    trends = (NONE,) if laws is None else tuple(_trend(Expected(laws, frame, k), warp) for k in range(1 + draws))
    processes = fit_process(columns, values, noise, bowl, louder, draws, trends, noise_sd)
    return Surrogate(runs, frame, warp, processes, seed)


def wide_surrogate(
    runs: Runs,
    *,
    laws: Ensemble | None = None,
    seed: int = 0,
    unsure: Array | None = None,
    noise: float | None = None,
    draws: int = DRAWS,
) -> Surrogate:
    """`surrogate` for an envelope, or beside laws: it follows runs far above the best ones too, and
    with so many rows leaves the noise to them.
    """
    return surrogate(
        runs, laws=laws, share=WIDE, seed=seed, unsure=unsure, noise=noise, noise_sd=SPREAD, draws=draws
    )  # fmt: skip


@dataclass(frozen=True)
class Expected:
    """(...) the loss, nats, that a draw of the laws expects of well-set runs at (..., k)
    coordinates. draw: 0 is the average of the laws.
    """

    laws: Ensemble
    frame: Frame
    draw: int = 0

    def __call__(self, coordinates: Array) -> Array:
        points = self.frame.points(coordinates.reshape(-1, coordinates.shape[-1]))
        log_loss = self.laws.laws(np.array([self.draw]), points)[0]
        return np.asarray(np.exp(log_loss).reshape(coordinates.shape[:-1]))


def _trend(expected: Expected, warp: Warp) -> Trend:
    """A draw of the laws as the model's process sees it: warped, about the average of the laws."""
    return Trend(len(expected.frame.kept), partial(_warped, expected, warp))


def _warped(expected: Expected, warp: Warp, columns: Array) -> Array:
    coordinates = columns[:, : len(expected.frame.kept)]
    return warp.inward(expected(coordinates), warp.base(coordinates))
