"""Pictures of the loss itself: at equal compute, over epochs or tokens, and as contours over size
and epochs.

Each takes a `Study` and returns a figure. Runs are shown at their own density, size and U; nothing
is averaged.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure

from analysis.answer.marks import Mark
from analysis.answer.study import Study
from analysis.data.points import Array, Points
from analysis.fit.intervals import Draws
from analysis.fit.select import levels
from analysis.show.plots import style
from analysis.show.plots.style import Look, epoch_ticks, figure, log_axis, picture
from raysparse.units import count

NEAR = 0.3  # ln units of compute within which a run is shown on an isoFLOP curve
SAME = 0.05  # ln units within which sizes (and densities) are one
LINES = 5  # sizes whose law is drawn over tokens
PANELS = 4  # sizes or densities shown side by side
THIN = 0.01  # of their spread along a line: runs that are nearer to it fill no plane
FLAT = 1e-9  # of the loss: differences that are none


@picture
def isoflop(study: Study) -> Figure:
    """Loss against size at equal compute, one panel per budget, one curve per density."""
    assert study.fit is not None
    unique = None if study.fresh is not None else float(study.runs.points.unique.max())
    budgets = _isoflop_budgets(study, unique)
    title = "Equal compute" + (", fresh tokens" if unique is None else f", U = {count(unique)} unique tokens")
    made, axes = figure(1, len(budgets), (5.6 * len(budgets) + 0.6, 5.4), title)
    look = Look(study.shown.points.density)
    for axis, budget in zip(axes[0], budgets, strict=True):
        for level in look.levels:
            _isoflop_curve(axis, study, float(budget), unique, level, look)
        axis.set_title(f"{budget:.2g} {study.cost.unit}")
        near = [m for m in study.marks if m.unique == unique and abs(np.log(m.cost / budget)) < NEAR]
        style.marked(axis, [(m.active, m.loss.value, m.answer) for m in near])
        log_axis(axis, "x")
        axis.set_xlabel("active parameters N")
    axes[0, 0].set_ylabel("loss, nats/token")
    _one_legend(axes)
    return made


def _over(study: Study, unique: float | None) -> Array:
    """(n,) shown rows over U, all of them where tokens are fresh."""
    points = study.shown.points
    return np.ones(len(points), dtype=bool) if unique is None else np.asarray(points.unique == unique)


def _isoflop_budgets(study: Study, unique: float | None) -> Array:
    """The budgets that were asked for, if several; else three that runs were trained at."""
    if len(study.budgets) > 1:
        return np.asarray(study.budgets[:PANELS])
    spent = study.cost.of(study.shown.points)[_over(study, unique)]
    return np.unique(np.quantile(spent, (0.2, 0.5, 0.8), method="nearest"))


def _isoflop_curve(axis: Axes, study: Study, budget: float, unique: float | None, level: float, look: Look) -> None:
    fit, draws, cost = study.fit, study.draws, study.cost
    assert fit is not None
    assert draws is not None
    size = np.geomspace(*study.box.active, 160)
    tokens = np.exp(cost.log_tokens(np.log(budget), np.log(size), np.log(level)))
    low, high = study.box.tokens if unique is None else (0.25 * unique, unique * study.box.epochs[1])
    inside = (tokens >= low * 0.999) & (tokens <= high * 1.001)
    if inside.sum() < 3:
        return
    size, tokens = size[inside], tokens[inside]
    at = Points.at(size, level, tokens if unique is None else unique, tokens)
    loss, color = fit.predict(at), look.color(level)
    axis.fill_between(size, *draws.predict(at), color=color, alpha=0.13, linewidth=0)
    axis.plot(size, loss, color=color)
    best = int(np.argmin(loss))
    axis.plot(size[best], loss[best], "v", color=color, markersize=11, zorder=4)
    runs = study.shown
    hollow: Any = {"markerfacecolor": "white", "markeredgewidth": 2, "linestyle": "none"}
    axis.plot([], [], look.marker(level), color=color, label=f"d = {level:.3g}", **hollow)
    near = (np.abs(np.log(cost.of(runs.points) / budget)) < NEAR) & (runs.points.density == level)
    near &= _over(study, unique)
    if near.any():  # a run near the budget is moved onto it along the law, so that its residual stays its own
        own = runs.points.take(near)
        moved = np.exp(cost.log_tokens(np.log(budget), own.log_active, own.log_density))
        there = Points(own.active, own.density, moved if unique is None else own.unique, moved)
        ratio = fit.predict(there) / fit.predict(own)
        axis.plot(own.active, runs.loss[near] * ratio, look.marker(level), color=color, **hollow)


@picture
def loss_over_epochs(study: Study) -> Figure:
    """Loss against epochs by density: a panel per size (columns) and unique-token budget (rows)."""
    runs, look = study.shown, Look(study.shown.points.density)
    sizes = _sizes(study)
    uniques = np.unique(runs.points.unique)
    uniques = np.unique(uniques[[0, -1]])
    names = list(sizes)
    shown = [names[i] for i in np.unique(np.linspace(0, len(names) - 1, PANELS).round().astype(int))]
    made, axes = figure(
        len(uniques), len(shown), (5.2 * len(shown) + 0.6, 4.3 * len(uniques) + 0.6), "Loss over epochs, by density"
    )
    for row, unique in enumerate(uniques):
        for column, name in enumerate(shown):
            axis = axes[row, column]
            for level in look.levels:
                at = sizes[name] & (runs.points.unique == unique) & (runs.points.density == level)
                _epoch_curve(axis, study, at, level, float(unique), look)
            here = [m for m in study.marks if m.unique == unique and _size_of(study, sizes, m) == name]
            style.marked(axis, [(m.epochs, m.loss.value, m.answer) for m in here])
            axis.set_title(f"{name}, U = {count(float(unique))}")
            log_axis(axis, "x", epoch_ticks(runs.points.epochs.max()))
            style.near_lines(axis)
            if row == len(uniques) - 1:
                axis.set_xlabel("epochs")
            if column == 0:
                axis.set_ylabel("loss, nats/token")
    _one_legend(axes)
    return made


def _size_of(study: Study, sizes: dict[str, Array], mark: Mark) -> str | None:
    """The panel whose dense equivalent is nearest to that of a mark; None if none is near."""
    points = study.shown.points
    whole = {name: np.median(points.log_active[rows] - points.log_density[rows]) for name, rows in sizes.items()}
    own = np.log(mark.active / mark.density)
    name = min(whole, key=lambda name: abs(whole[name] - own))
    return name if abs(whole[name] - own) < NEAR else None


@picture
def loss_over_tokens(study: Study) -> Figure:
    """Loss against fresh tokens, colour by size, a panel per density; lines are the law at a few of
    the sizes.
    """
    runs = study.shown
    densities = np.unique(runs.points.density)[::-1][:PANELS]
    made, axes = figure(1, len(densities), (6.8 * len(densities) + 2.2, 5.8), "Loss over tokens, by size")
    shades = ScalarMappable(LogNorm(runs.points.active.min(), runs.points.active.max() * 1.001), style.SHADES)
    for axis, density in zip(axes[0], densities, strict=True):
        at = runs.points.density == density
        sizes = np.unique(np.quantile(runs.points.active[at], np.linspace(0.1, 0.9, LINES), method="nearest"))
        for size in sizes if study.fit is not None and np.ptp(runs.points.tokens[at]) > 0 else ():
            _token_curve(
                axis, study, runs.points.tokens[at], float(size), float(density), shades.to_rgba(np.array([size]))[0]
            )
        colors = shades.to_rgba(runs.points.active[at])
        axis.scatter(runs.points.tokens[at], runs.loss[at], c=colors, edgecolors=style.GREY, linewidths=0.6, zorder=3)
        here = [m for m in study.marks if m.density == density]
        style.marked(axis, [(m.tokens, m.loss.value, m.answer) for m in here])
        axis.set_title(f"d = {density:.3g}")
        log_axis(axis, "x")
        axis.set_xlabel("tokens D")
    axes[0, 0].set_ylabel("loss, nats/token")
    _one_legend(axes)
    bar = made.colorbar(shades, ax=axes, shrink=0.9, pad=0.02)
    bar.set_label("active parameters N")
    bar.ax.yaxis.set_major_formatter(lambda value, _: count(value))
    return made


def _token_curve(axis: Axes, study: Study, tokens: Array, size: float, density: float, color: Any) -> None:
    assert study.fit is not None
    assert study.draws is not None
    trained = np.geomspace(tokens.min(), tokens.max(), 40)
    at = Points.at(size, density, trained, trained)
    _bands(axis, study.draws, trained, at, color)
    axis.plot(trained, study.fit.predict(at), color=color)


def _bands(axis: Axes, draws: Draws, x: Array, at: Points, color: Any) -> None:
    """95 % of one run (light) and of the mean (dark)."""
    axis.fill_between(x, *draws.predict_run(at), color=color, alpha=0.08, linewidth=0)
    axis.fill_between(x, *draws.predict(at), color=color, alpha=0.18, linewidth=0)


def _one_legend(axes: Array) -> None:
    """A legend in the first panel with the most entries."""
    panels = list(axes.ravel())
    most = max(panels, key=lambda axis: len(axis.get_legend_handles_labels()[1]))
    if most.get_legend_handles_labels()[1]:
        most.legend(loc="best")


def _sizes(study: Study) -> dict[str, Array]:
    """Panel name -> rows, smallest first. Sizes by model name, else by N / density (the dense
    equivalent).
    """
    runs = study.shown
    if runs.model is not None:
        names = np.unique(runs.model.astype(str))
        order = np.argsort([runs.points.active[runs.model == name].max() for name in names], kind="stable")
        return {str(names[i]): runs.model == names[i] for i in order}
    dense = runs.points.active / runs.points.density
    rounded = np.array([float(f"{value:.2g}") for value in dense])
    return {f"N/d = {count(float(value))}": rounded == value for value in np.unique(rounded)}


def _epoch_curve(axis: Axes, study: Study, at: Array, level: float, unique: float, look: Look) -> None:
    runs = study.shown
    if not at.any():
        return
    points = runs.points.take(at)
    if study.fit is not None and study.draws is not None:
        epochs = np.geomspace(1.0, max(2.0, runs.points.epochs.max()), 40)
        grid = Points.at(np.median(points.active), level, unique, unique * epochs)
        _bands(axis, study.draws, epochs, grid, look.color(level))
        axis.plot(epochs, study.fit.predict(grid), color=look.color(level))
    axis.plot(points.epochs, runs.loss[at], look.marker(level), color=look.color(level), label=f"d = {level:.3g}")


@picture
def isoloss(study: Study) -> Figure:
    """Contours of equal loss over epochs and size, one column per density: those of the runs
    above, predicted below.
    """
    assert study.fit is not None
    runs, densities = study.shown, planes(study)
    unique = _commonest(study)
    here = runs.points.unique == unique
    made, axes = figure(
        2,
        len(densities),
        (4.9 * len(densities) + 1.2, 8.6),
        f"Equal loss over size and epochs, U = {count(unique)} unique tokens",
    )
    shades = np.linspace(runs.loss[here].min(), runs.loss[here].max(), 11)
    for column, density in enumerate(densities):
        at = here & (runs.points.density == density)
        points = runs.points.take(at)
        top, bottom = axes[:, column]
        top.tricontourf(
            np.log2(points.epochs), np.log10(points.active), runs.loss[at], shades, cmap=style.SHADES, extend="both"
        )
        epochs, size = np.meshgrid(
            np.geomspace(points.epochs.min(), points.epochs.max(), 60),
            np.geomspace(points.active.min(), points.active.max(), 60),
        )
        grid = Points.at(size.ravel(), float(density), unique, unique * epochs.ravel())
        loss = study.fit.predict(grid).reshape(size.shape)
        bottom.contourf(np.log2(epochs), np.log10(size), loss, shades, cmap=style.SHADES, extend="both")
        for axis, word in ((top, study.word), (bottom, "predicted")):
            axis.plot(np.log2(points.epochs), np.log10(points.active), "o", color="white", markeredgecolor="black")
            seen = [m for m in study.marks if m.unique == unique and abs(np.log(m.density / density)) < SAME]
            style.marked(axis, [(np.log2(m.epochs), np.log10(m.active), m.answer) for m in seen])
            axis.set_title(f"{word}, d = {density:.3g}")
            axis.set_xticks(np.log2(epoch_ticks(points.epochs.max())))
            axis.xaxis.set_major_formatter(lambda value, _: count(2.0**value))
            axis.set_yticks(np.log10(np.unique(points.active)))
            axis.yaxis.set_major_formatter(lambda value, _: count(10.0**value))
            axis.grid(False)
        bottom.set_xlabel("epochs")
    for axis in axes[:, 0]:
        axis.set_ylabel("active parameters N")
    bar = made.colorbar(ScalarMappable(Normalize(shades[0], shades[-1]), style.SHADES), ax=axes, shrink=0.8, pad=0.02)
    bar.set_label("loss, nats/token")
    return made


def _commonest(study: Study) -> float:
    """The U with the most rows."""
    values, frequency = np.unique(study.shown.points.unique, return_counts=True)
    return float(values[np.argmax(frequency)])


def planes(study: Study) -> list[float]:
    """Densities whose runs fill a plane of sizes and epochs at the commonest U, densest first; none
    where all losses are one.
    """
    points = study.shown.points
    here = points.unique == _commonest(study)
    if np.ptp(study.shown.loss[here]) < FLAT * study.shown.loss[here].max():
        return []
    densities = np.unique(points.density)[::-1]
    return [float(d) for d in densities if _fills_plane(points.take(here & (points.density == d)))][:PANELS]


def _fills_plane(points: Points) -> bool:
    """Whether there are sizes and epochs, and not along one line (runs of one compute are)."""
    if not len(points) or levels(points.active) < 3 or levels(points.epochs) < 3:
        return False
    at = np.column_stack([points.log_active, points.log_tokens - points.log_unique])
    longer, shorter = np.linalg.svd(at - at.mean(axis=0), compute_uv=False)
    return bool(shorter > THIN * longer)
