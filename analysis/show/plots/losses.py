"""Pictures of the loss itself: at equal compute, over epochs, and as contours over size and epochs.

Each takes a `Study` and returns a figure. Runs are shown at their own density, size and U; nothing
is averaged.
"""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from analysis.answer.study import Study
from analysis.data.points import Array, Points
from analysis.fit.joint import Fit
from analysis.fit.select import levels
from analysis.show.plots import style
from analysis.show.plots.style import Look, epoch_ticks, figure, log_axis, nothing, picture
from raysparse.units import count

NEAR = 0.3  # ln units of compute within which a run is shown on an isoFLOP curve
PANELS = 4  # sizes or densities shown side by side


@picture
def isoflop(study: Study) -> Figure:
    """Loss against size at equal compute, one panel per budget, one curve per density."""
    if study.fit is None:
        return nothing("Equal compute", study.cautions)
    budgets = _isoflop_budgets(study)
    unique = float(np.unique(study.runs.points.unique)[-1])
    made, axes = figure(
        1, len(budgets), (5.6 * len(budgets) + 0.6, 5.4), f"Equal compute, U = {count(unique)} unique tokens"
    )
    look = Look(study.shown.points.density)
    for axis, budget in zip(axes[0], budgets, strict=True):
        for level in look.levels:
            _isoflop_curve(axis, study, study.fit, budget, unique, level, look)
        axis.set_title(f"{budget:.2g} {study.cost.unit}")
        log_axis(axis, "x")
        axis.set_xlabel("active parameters N")
    axes[0, 0].set_ylabel("loss, nats/token")
    _one_legend(axes)
    return made


def _isoflop_budgets(study: Study) -> Array:
    runs = study.shown
    spent = study.cost.of(runs.points)[runs.points.unique == runs.points.unique.max()]
    if len(study.budgets) > 1:
        return np.asarray(study.budgets[:PANELS])
    return np.geomspace(np.quantile(spent, 0.2), spent.max() * 0.999, 3) if np.ptp(spent) > 0 else spent[:1]


def _isoflop_curve(axis: Axes, study: Study, fit: Fit, budget: float, unique: float, level: float, look: Look) -> None:
    size = np.geomspace(*study.box.active, 160)
    tokens = np.exp(study.cost.log_tokens(np.log(budget), np.log(size), np.log(level)))
    inside = (tokens >= unique * 0.25) & (tokens <= unique * study.box.epochs[1] * 1.001)
    if inside.sum() < 3:
        return
    size, tokens = size[inside], tokens[inside]
    loss = fit.predict(Points.at(size, level, unique, tokens))
    axis.plot(size, loss, color=look.color(level))
    axis.plot(
        [],
        [],
        color=look.color(level),
        marker=look.marker(level),
        markerfacecolor="white",
        markeredgewidth=2,
        label=f"d = {level:.3g}",
    )
    best = int(np.argmin(loss))
    axis.plot(size[best], loss[best], "*", color=look.color(level), markersize=17, zorder=4)
    runs = study.shown
    spent = study.cost.of(runs.points)
    near = (np.abs(np.log(spent / budget)) < NEAR) & (runs.points.density == level) & (runs.points.unique == unique)
    if near.any():  # a run near the budget is moved onto it along the law, so that its residual stays its own
        own = runs.points.take(near)
        moved = np.exp(study.cost.log_tokens(np.log(budget), own.log_active, own.log_density))
        ratio = fit.predict(Points(own.active, own.density, own.unique, moved)) / fit.predict(own)
        axis.plot(
            own.active,
            runs.loss[near] * ratio,
            look.marker(level),
            color=look.color(level),
            markerfacecolor="white",
            markeredgewidth=2,
        )


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
            axis.set_title(f"{name}, U = {count(float(unique))}")
            log_axis(axis, "x", epoch_ticks(runs.points.epochs.max()))
            if row == len(uniques) - 1:
                axis.set_xlabel("epochs")
            if column == 0:
                axis.set_ylabel("loss, nats/token")
    _one_legend(axes)
    return made


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
        epochs = np.geomspace(1.0, max(2.0, runs.points.epochs.max()), 60)
        grid = Points.at(np.median(points.active), level, unique, unique * epochs)
        axis.fill_between(epochs, *study.draws.predict(grid), color=look.color(level), alpha=0.13, linewidth=0)
        axis.plot(epochs, study.fit.predict(grid), color=look.color(level))
    axis.plot(points.epochs, runs.loss[at], look.marker(level), color=look.color(level), label=f"d = {level:.3g}")


@picture
def isoloss(study: Study) -> Figure:
    """Contours of equal loss over epochs and size, one column per density: measured above,
    predicted below.
    """
    runs = study.shown
    values, frequency = np.unique(runs.points.unique, return_counts=True)
    unique = float(values[np.argmax(frequency)])
    here = runs.points.unique == unique
    levels = [
        d
        for d in np.unique(runs.points.density)[::-1]
        if _fills_plane(runs.points.take(here & (runs.points.density == d)))
    ][:PANELS]
    if study.fit is None or not levels:
        return nothing(
            "Equal loss",
            study.cautions[:1]
            if study.fit is None
            else ("needs at least three sizes and three epoch counts at one density and U",),
        )
    made, axes = figure(
        2,
        len(levels),
        (4.9 * len(levels) + 1.2, 8.6),
        f"Equal loss over size and epochs, U = {count(unique)} unique tokens",
    )
    shades = np.linspace(runs.loss[here].min(), runs.loss[here].max(), 11)
    for column, density in enumerate(levels):
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
        for axis, word in ((top, "measured"), (bottom, "predicted")):
            axis.plot(np.log2(points.epochs), np.log10(points.active), "o", color="white", markeredgecolor="black")
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


def _fills_plane(points: Points) -> bool:
    return len(points) > 0 and levels(points.active) >= 3 and levels(points.epochs) >= 3
