"""What to train: the size, density and epochs of least predicted loss under a budget, with their
uncertainty.

The search is continuous and stays inside a stated box. The budget is a cap: what over-fits past
its best is not trained further because there is money left. Density, tokens within the budget and
size within what they leave span a cube; a coarse grid finds its basins and a zoom refines each, for
all parameter vectors (the fit and its bootstrap draws) at once. Where a law's loss never rises with
size, the largest size is the best and the cube is a square. No derivative is used, because N_eff
has a kink at N_opt. An answer on an edge of the box, or outside the data, is flagged: it then says
more about the box.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike

from analysis.answer.costs import ACTIVE, Cost
from analysis.data.points import Array, Points
from analysis.data.table import Runs

COARSE = (33, 49, 1)  # density x tokens x size cells of the first grid where size is at its most ...
CUBE = (13, 17, 9)  # ... and where it is free
BASINS = 3  # local minima of the coarse grid that are refined
FINE = {1: 7, 9: 3}  # refinement cells per side, by cells of size
LEVELS = {1: 16, 9: 8}  # how often the window halves
CHUNK = 64  # parameter vectors searched together
EDGE = 0.01  # in ln units: nearer than this to a bound counts as on it


class Predictor(Protocol):
    """Anything that predicts: a law with its parameters, or an ensemble with numbers of draws."""

    @property
    def grows(self) -> bool:
        """Whether the loss never rises with size, all else equal."""
        ...

    def log_loss(self, theta: Array, points: Points) -> Array:
        """(b, n) ln L of b parameter vectors at points of shape (n,), (1, n) or (b, n)."""
        ...


@dataclass(frozen=True)
class Box:
    """Where the search may go: (low, high) of N, density, epochs and trained tokens.

    Raises ValueError for an empty or non-positive range, or a density above 1.
    """

    active: tuple[float, float]
    density: tuple[float, float]
    epochs: tuple[float, float] = (1.0, 1e6)
    tokens: tuple[float, float] = (1.0, 1e18)

    def __post_init__(self) -> None:
        for name in ("active", "density", "epochs", "tokens"):
            low, high = getattr(self, name)
            if not 0 < low <= high < np.inf or (name == "density" and high > 1):
                raise ValueError(
                    f"box: {name} is {(low, high)!r}; expected 0 < low <= high" + (" <= 1" if name == "density" else "")
                )

    @classmethod
    def of(cls, runs: Runs, margin: float = 1.0) -> Box:
        """The data's own range; with a margin, N and tokens may go that many times beyond it."""
        points = runs.points
        return cls(
            (points.active.min() / margin, points.active.max() * margin),
            (points.density.min(), points.density.max()),
            (min(1.0, points.epochs.min()), max(1.0, points.epochs.max())),
            (points.tokens.min() / margin, points.tokens.max() * margin),
        )

    def dense(self) -> Box:
        """The same box at density 1."""
        return replace(self, density=(1.0, 1.0))


@dataclass(frozen=True)
class Optimum:
    """Optima of b parameter vectors, arrays (b,): loss in nats per token; NaN where the budget fits
    no run.
    """

    active: Array
    density: Array
    tokens: Array
    unique: Array
    loss: Array

    @property
    def epochs(self) -> Array:
        return self.tokens / self.unique

    def point(self, row: int = 0) -> Points:
        return Points(*(np.array([getattr(self, name)[row]]) for name in ("active", "density", "unique", "tokens")))


def search(
    law: Predictor, theta: ArrayLike, box: Box, budget: ArrayLike, unique: ArrayLike | None, cost: Cost = ACTIVE
) -> Optimum:
    """The least loss of each parameter vector within the box at a cost of at most the budget.

    theta: (b, p) or (p,). budget: scalar or (b,), in the cost's unit. unique: U, scalar or (b,);
    None means that unique tokens are free, so that every run is one epoch (U = D).
    """
    vectors = np.atleast_2d(np.asarray(theta, dtype=float))
    spend = np.log(np.broadcast_to(np.asarray(budget, dtype=float), (len(vectors),)))
    tokens = np.full((len(vectors), 2), np.log(box.tokens))
    log_unique = None
    if unique is not None:
        log_unique = np.log(np.broadcast_to(np.asarray(unique, dtype=float), (len(vectors),)))
        epochs = log_unique[:, None] + np.log(box.epochs)
        tokens = np.stack([np.maximum(tokens[:, 0], epochs[:, 0]), np.minimum(tokens[:, 1], epochs[:, 1])], axis=1)
    pieces = []
    for begin in range(0, len(vectors), CHUNK):
        part = slice(begin, begin + CHUNK)
        pieces.append(
            _Search(
                law,
                vectors[part],
                box,
                spend[part],
                tokens[part],
                None if log_unique is None else log_unique[part],
                cost,
            ).run()
        )
    return Optimum(
        *(
            np.concatenate([getattr(piece, name) for piece in pieces])
            for name in ("active", "density", "tokens", "unique", "loss")
        )
    )


class _Search:
    """One chunk. Positions are (x, y, z) in the unit cube: x along ln d, y along the feasible ln D
    at that d, z along ln N from the box's least to what the budget leaves.
    """

    def __init__(
        self, law: Predictor, theta: Array, box: Box, spend: Array, tokens: Array, unique: Array | None, cost: Cost
    ):
        self.law, self.theta, self.box, self.cost = law, theta, box, cost
        self.spend, self.tokens, self.unique = spend[:, None], tokens, unique
        free = COARSE if law.grows else CUBE
        self.cells = free if box.density[0] < box.density[1] else (1, *free[1:])

    def run(self) -> Optimum:
        rows = np.arange(len(self.theta))
        owner, at = _basins(self._coarse(rows).reshape(-1, *self.cells))
        width = 1.5 / np.maximum(np.array(self.cells) - 1, 1)
        best = np.full(len(owner), np.inf)
        offsets = np.linspace(-1, 1, FINE[self.cells[2]])
        sides = [offsets if cells > 1 else np.zeros(1) for cells in self.cells]
        steps = np.stack([axis.ravel() for axis in np.meshgrid(*sides)])
        for _ in range(LEVELS[self.cells[2]]):
            tried = np.clip(at[:, :, None] + width[:, None] * steps, 0, 1)  # (k, 3, cells)
            loss = self._log_loss(owner, *tried.transpose(1, 0, 2))
            pick = np.argmin(loss, axis=1)
            chosen = np.arange(len(owner))
            at, best = tried[chosen, :, pick], loss[chosen, pick]
            width = width * 0.5
        order = np.lexsort([best, owner])
        winner = order[np.unique(owner[order], return_index=True)[1]]
        return self._optimum(rows, at[winner], best[winner])

    def _coarse(self, rows: Array) -> Array:
        """(b, cells) losses on the first grid; one set of points where all rows ask the same."""
        sides = [np.linspace(0, 1, n) if n > 1 else np.ones(1) for n in self.cells]
        x, y, z = (axis.ravel()[None] for axis in np.meshgrid(*sides, indexing="ij"))
        alike = np.ptp(self.spend) == 0 and not np.ptp(self.tokens, axis=0).any()
        if alike and (self.unique is None or np.ptp(self.unique) == 0):
            points, feasible = self._points(rows[:1], x, y, z)
            return np.where(feasible, self.law.log_loss(self.theta, points), np.inf)
        return self._log_loss(rows, *np.broadcast_arrays(x + 0 * self.spend, y, z))

    def _coordinates(self, rows: Array, x: Array, y: Array, z: Array) -> tuple[Array, Array, Array, Array]:
        """ln N, ln d, ln D, and whether any run at this density fits the budget; x, y and z are
        (k, m).
        """
        log_density = np.log(self.box.density[0]) + x * np.log(self.box.density[1] / self.box.density[0])
        spend, (least, most) = self.spend[rows], np.log(self.box.active)
        low = self.tokens[rows, 0, None]
        high = np.minimum(self.tokens[rows, 1, None], self.cost.log_tokens(spend, least, log_density))
        log_tokens = low + y * np.maximum(high - low, 0.0)
        top = np.minimum(most, self.cost.log_active(spend, log_tokens, log_density))
        return least + z * np.maximum(top - least, 0.0), log_density, log_tokens, high >= low - 1e-9

    def _points(self, rows: Array, x: Array, y: Array, z: Array) -> tuple[Points, Array]:
        log_active, log_density, log_tokens, feasible = self._coordinates(rows, x, y, z)
        log_unique = log_tokens if self.unique is None else np.broadcast_to(self.unique[rows, None], log_tokens.shape)
        density = np.minimum(np.exp(log_density), 1.0)
        return Points(np.exp(log_active), density, np.exp(log_unique), np.exp(log_tokens)), feasible

    def _log_loss(self, rows: Array, x: Array, y: Array, z: Array) -> Array:
        points, feasible = self._points(rows, x, y, z)
        return np.where(feasible, self.law.log_loss(self.theta[rows], points), np.inf)

    def _optimum(self, rows: Array, at: Array, log_loss: Array) -> Optimum:
        points, _ = self._points(rows, *at.T[:, :, None])
        known = np.where(np.isfinite(log_loss), 1.0, np.nan)
        active, density, tokens = (values[:, 0] * known for values in (points.active, points.density, points.tokens))
        unique = points.unique[:, 0] if self.unique is not None else tokens
        return Optimum(active, density, tokens, unique, np.exp(log_loss) * known)


def _basins(loss: Array) -> tuple[Array, Array]:
    """Owner row and (k, 3) position of up to `BASINS` local minima of each (rows, X, Y, Z) grid,
    the best one always among them.
    """
    rows, *cells = loss.shape
    padded = np.pad(loss, ((0, 0), (1, 1), (1, 1), (1, 1)), constant_values=np.inf)
    local = np.ones(loss.shape, dtype=bool)
    for shift in np.ndindex(3, 3, 3):
        window = tuple(slice(step, step + size) for step, size in zip(shift, cells, strict=True))
        local &= loss <= padded[(slice(None), *window)]
    ranked = np.where(local, loss, np.inf).reshape(rows, -1)
    found = np.argsort(ranked, axis=1, kind="stable")[:, :BASINS]
    finite = np.isfinite(np.take_along_axis(ranked, found, 1))
    finite[:, 0] = True
    owner = np.repeat(np.arange(rows), finite.sum(axis=1))
    places = np.stack(np.unravel_index(found[finite], cells), axis=1)
    last = np.array(cells) - 1
    return owner, np.where(last > 0, places / np.maximum(last, 1), 1.0)


def _reach(box: Box, cost: Cost, unique: float) -> tuple[float, float]:
    """Cost of the cheapest and the dearest run in the box; NaN for U leaves epochs out."""
    tokens = np.array(box.tokens)
    if np.isfinite(unique):
        tokens = np.clip(unique * np.array(box.epochs), *box.tokens)
    corners = np.meshgrid(box.active, box.density, tokens)
    spent = cost.of(Points.at(corners[0].ravel(), corners[1].ravel(), 1.0, corners[2].ravel()))
    return float(spent.min()), float(spent.max())


def refusal(optimum: Optimum, box: Box, cost: Cost = ACTIVE, row: int = 0) -> str:
    """Why the budget fits no run, where that is so; else nothing."""
    if np.isfinite(optimum.loss[row]):
        return ""
    low, high = _reach(box, cost, float(optimum.unique[row]))
    return f"the budget fits no run inside the box, whose runs cost {low:.3g} to {high:.3g} {cost.unit}"


def flags(
    optimum: Optimum,
    box: Box,
    runs: Runs,
    cost: Cost = ACTIVE,
    budget: float | None = None,
    row: int = 0,
    fresh: bool = False,
) -> tuple[str, ...]:
    """Why an optimum should be read with care: on an edge of the box, outside the data, beyond the
    compute. fresh: unique tokens were free, so that epochs were not searched.
    """
    if refused := refusal(optimum, box, cost, row):
        return (refused,)
    found: list[str] = []
    points = runs.points
    for name, data in (
        ("active", points.active),
        ("density", points.density),
        ("epochs", points.epochs),
        ("tokens", points.tokens),
    ):
        value, (low, high) = float(getattr(optimum, name)[row]), getattr(box, name)
        edge = "lower" if value < low * np.exp(EDGE) else "upper" if value > high * np.exp(-EDGE) else ""
        trivial = low == high or (name == "density" and edge == "upper" and high == 1.0)
        trivial |= fresh and name == "epochs"
        if edge and not trivial:
            found.append(f"{name} {value:.4g} lies on the {edge} edge of the box")
        if value < data.min() * np.exp(-EDGE) or value > data.max() * np.exp(EDGE):
            found.append(f"{name} {value:.4g} lies outside the data [{data.min():.4g}, {data.max():.4g}]")
    if budget is not None:
        reach = float(cost.of(points).max())
        if budget > 10 * reach:
            found.append(f"the budget {budget:.3g} {cost.unit} is {budget / reach:.3g}x the largest run in the table")
    return tuple(found)
