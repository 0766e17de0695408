"""The best settings of every point of a plan, in few trials, each point learning from the others.

Best settings move smoothly with size, density, unique tokens and epochs, so one model reads all
rows, and a trial is worth what it is expected to lower the least loss of *all* points that are
still open (`analysis.answer.gain`), per unit of its cost. A point is closed when no trial of its
own is worth the tolerance, or when it has had its share of trials; at the end each point is trained
at its answer, unless something as good was. Left out: what lies between the points (`search`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from analysis.answer.gain import Question, believing, expected, gains
from analysis.answer.surrogate import LEAST_ROWS, Surrogate, surrogate
from analysis.data.points import Array, Points
from analysis.data.table import read_table
from analysis.fit.gaussian import Process, spread
from raysparse.record import require
from raysparse.run_folder import RunFolder
from raysparse.spec import DataSpec, TrialSpec
from raysparse.sweep.planners.base import RUNNING, Known, Planner, Purse
from raysparse.sweep.planners.candidates import columns_of, fresh, points_of, table_of
from raysparse.sweep.planners.space import POINT, Space, field_of

SETTINGS = 48  # settings that are looked at in every point
MORE_THAN_AXES = 2  # first trials beside one an axis
SAME = 0.005  # nats: a trained point this near to its answer is as good as it


@dataclass(frozen=True, kw_only=True)
class Tune(Planner):
    """points: what is tuned. space: axes of settings only. share: trials of one point at most.
    tolerance: nats of expected improvement below which a point is left.

    Raises ValueError for no point, for two points that differ only in what is tuned, and for a
    space with an axis of the points' own.
    """

    points: tuple[TrialSpec, ...]
    space: Space
    share: int = 12
    tolerance: float = 0.005
    seed: int = 0

    def __post_init__(self) -> None:
        require(len(self.points) >= 1, "tune.points", self.points, "at least one trial")
        require(self.share >= 1, "tune.share", self.share, "at least 1 trial a point")
        require(self.tolerance > 0, "tune.tolerance", self.tolerance, "a positive number of nats")
        own = [axis.name for axis in self.space.axes if axis.name in POINT]
        require(not own, "tune.space", ", ".join(own), "settings only: size, density and epochs are the points' own")
        keys = [self.key(point) for point in self.points]
        twice = next((p for p, key in zip(self.points, keys, strict=True) if keys.count(key) > 1), None)
        if twice is not None:
            raise ValueError(
                f"tune.points holds {twice.name or twice.trial_id} twice, but for what is tuned; list it once"
            )

    def key(self, spec: TrialSpec) -> str:
        """Equal for trials that differ in nothing but the tuned settings, their seed and names."""
        for axis in self.space.axes:
            path = field_of(axis.name)
            spec = spec.with_field(path, self.points[0].at(path))
        return spec.replicate_of

    def data(self) -> Sequence[DataSpec]:
        return [point.data for point in self.points]

    def question(self) -> tuple[str, ...]:
        axes = (f"  {axis.name + ':':<15}{axis.said}" for axis in self.space.axes)
        return f"tunes {len(self.points)} points, at most {self.share} trials each, over:", *axes

    def mirror(self, folder: RunFolder, known: Sequence[Known], purse: Purse) -> None:
        """Into an Optuna study in the run folder."""
        from raysparse.sweep.planners import study

        study.mirror(folder, self.space, known, purse)

    def links(self, folder: RunFolder) -> tuple[str, ...]:
        from raysparse.sweep.planners import study

        return (f"study: {study.dashboard(folder)}",)

    def ask(self, known: Sequence[Known], purse: Purse) -> Sequence[TrialSpec]:
        """At most one trial. Raises ValueError for a budget below the cheapest point."""
        known = sorted(known, key=lambda trial: trial.spec.trial_id)
        least = min(purse.price(point) for point in self.points)
        if not known and least > purse.remaining:
            raise ValueError(
                f"the budget of {purse.remaining:.3g} is below the cheapest trial of the points, {least:.3g}; raise it"
            )
        taken = {trial.spec.trial_id for trial in known}
        for wish in _State(self, known, purse).wishes():
            one = fresh(wish, taken, first=wish.seed)
            if one is not None and purse.affords(one):
                return [one]
        return []

    def answers(self, known: Sequence[Known], price: Callable[[TrialSpec], float]) -> list[TrialSpec | None]:
        """For each point the trial of least expected loss; None for one without a model."""
        known = sorted(known, key=lambda trial: trial.spec.trial_id)
        return _State(self, known, Purse(math.inf, price)).answers()


@dataclass(frozen=True, eq=False)
class Spread:
    """The points times the settings: n specs, the (n,) number of their point, their (n, k) places
    in the space of settings.
    """

    specs: tuple[TrialSpec, ...]
    point: Array
    places: Array
    coordinates: Points


@lru_cache(maxsize=8)
def spread_points(points: tuple[TrialSpec, ...], space: Space, seed: int) -> Spread:
    """About `SETTINGS` settings at each point, each once, without those that a spec refuses."""
    cube = spread(len(space.free), SETTINGS, seed)
    settings = dict.fromkeys(tuple(space.values([float(u) for u in place]).items()) for place in cube)
    specs, owners, places = [], [], []
    for number, point in enumerate(points):
        for setting in settings:
            values = dict(setting)
            try:
                specs.append(space.applied(point, values))
            except ValueError:  # settings that no training can have, such as a decay of all in a step
                continue
            owners.append(number)
            places.append(space.units(values))
    if not specs:
        space.applied(points[0], space.values([0.5] * len(space.free)))
        raise ValueError("a spec refuses all settings at every point; narrow the ranges")
    return Spread(tuple(specs), np.array(owners), np.array(places, dtype=float), points_of(specs))


class _State:
    """What is known of every point, worked out once for an ask."""

    def __init__(self, planner: Tune, known: Sequence[Known], purse: Purse):
        self.planner, self.purse = planner, purse
        numbers = {planner.key(point): number for number, point in enumerate(planner.points)}
        self.known = [trial for trial in known if planner.key(trial.spec) in numbers]
        self.owner = np.array([numbers[planner.key(trial.spec)] for trial in self.known], dtype=int)
        self.all = spread_points(planner.points, planner.space, planner.seed)
        self.prices = np.array([purse.price(spec) for spec in self.all.specs])
        self.first = max(LEAST_ROWS, len(planner.space.free) + MORE_THAN_AXES)

    def wishes(self) -> Iterator[TrialSpec]:
        """Trials in the order in which they are useful."""
        if not self._is_modelled():
            yield from self._design()
            return
        model, processes = self._model()
        scores = self._scores(model, processes)
        order = np.argsort(-scores, kind="stable")
        yield from (self.all.specs[i] for i in order if scores[i] > 0)
        yield from self._closing(model, processes)

    def answers(self) -> list[TrialSpec | None]:
        if sum(trial.loss is not None for trial in self.known) < LEAST_ROWS:
            return [None] * len(self.planner.points)
        best = self._best(*self._model())
        return [self.all.specs[best[number]] if number in best else None for number in range(len(self.planner.points))]

    def _count(self, number: int) -> int:
        return int((self.owner == number).sum())

    def _is_modelled(self) -> bool:
        failed = sum(trial.loss is None and trial.status != RUNNING for trial in self.known)
        enough = min(self.first + failed, self.planner.share * len(self.planner.points))
        return len(self.known) >= enough and sum(trial.loss is not None for trial in self.known) >= LEAST_ROWS

    def _design(self) -> Iterator[TrialSpec]:
        """First trials: at the point that has fewest, the cheapest of these; with settings far from
        all that were tried.
        """
        space = self.planner.space
        tried = [space.units(space.values_of(trial.spec)) for trial in self.known]
        there = np.array([place for place in tried if place is not None], dtype=float)
        if len(there):
            apart = np.linalg.norm(self.all.places[:, None] - there[None], axis=2).min(axis=1)
        else:
            apart = -np.linalg.norm(self.all.places - 0.5, axis=1)
        counted = np.array([self._count(number) for number in self.all.point])
        order = np.lexsort([-apart, self.prices, counted])
        yield from (self.all.specs[i] for i in order if counted[i] < self.planner.share)

    def _model(self) -> tuple[Surrogate, tuple[Process, ...]]:
        """The model, and its processes with running trials taken as ended."""
        model = surrogate(read_table(table_of(self.known)), seed=self.planner.seed)
        running = [trial.spec for trial in self.known if trial.status == RUNNING]
        return model, believing(model, columns_of(model, points_of(running), running)) if running else model.processes

    def _at(self, model: Surrogate, rows: Array | slice = slice(None)) -> Array:
        """Columns of trials of the spread."""
        numbers = np.arange(len(self.all.specs))[rows]
        return columns_of(model, self.all.coordinates.take(numbers), [self.all.specs[row] for row in numbers])

    def _scores(self, model: Surrogate, processes: tuple[Process, ...]) -> Array:
        """(n,) what each trial is worth per unit of cost; 0 at closed points."""
        at, point = self._at(model), self.all.point
        worth = gains(model, processes, at, Question(at, point))  # (g, n), groups in order of their number
        open_ = [
            place
            for place, number in enumerate(np.unique(point))
            if self._count(number) < self.planner.share
            and worth[place][point == number].max() >= self.planner.tolerance
        ]
        may = np.isin(point, np.unique(point)[open_])
        return np.asarray(np.where(may, worth[open_].sum(axis=0), 0.0) / self.prices)

    def _best(self, model: Surrogate, processes: tuple[Process, ...]) -> dict[int, int]:
        """Point -> row of the spread with the least expected loss."""
        mean, point = expected(model, processes, self._at(model)), self.all.point
        return {int(n): int(np.argmin(np.where(point == n, mean, np.inf))) for n in np.unique(point)}

    def _closing(self, model: Surrogate, processes: tuple[Process, ...]) -> Iterator[TrialSpec]:
        """The answers of points at which nothing as good was trained, the cheapest first."""
        best = self._best(model, processes)
        for number, row in sorted(best.items(), key=lambda item: self.prices[item[1]]):
            good = ("completed", RUNNING)
            tried = [t.spec for t, o in zip(self.known, self.owner, strict=True) if o == number and t.status in good]
            answer = expected(model, processes, self._at(model, np.array([row])))[0]
            there = (
                expected(model, processes, columns_of(model, points_of(tried), tried)) if tried else np.array([np.inf])
            )
            if there.min() > answer + SAME and self._count(number) < self.planner.share:
                yield self.all.specs[row]
