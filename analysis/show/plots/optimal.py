"""Pictures of the answer: optimal sparsity and epochs along budgets, and along unique tokens.

Each takes a `Study` and returns a figure. Grey marks what lies beyond the largest run; the dashed
line is the sparsest density that was trained, at which the search stops.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.answer.optimum import Box, Optimum, search
from analysis.answer.study import Study
from analysis.data.points import Array
from analysis.fit.intervals import Draws
from analysis.show.plots import style
from analysis.show.plots.style import epoch_ticks, figure, log_axis, nothing, picture

ALONG = 13  # values of U along the curve
DRAWS = 40  # draws behind its band: six curves of many optima each


@picture
def optimal_sparsity(study: Study) -> Figure:
    """Optimal sparsity and epochs against the budget, one curve per unique-token budget, with
    bands.
    """
    if study.draws is None or not study.curves:
        return nothing("What to train at each budget", study.cautions)
    made, axes = figure(1, 2, (13.5, 5.6), "What to train at each budget")
    left, right = axes[0]
    reach = float(study.cost.of(study.runs.points).max())
    for index, curve in enumerate(study.curves):
        label = curve.label
        _band(left, curve.budgets, curve.density, study.draws, index, label, _sparsity)
        _band(right, curve.budgets, curve.epochs, study.draws, index, label, _same)
    last = max(curve.budgets[-1] for curve in study.curves)
    for axis in (left, right):
        axis.axvspan(reach, max(last, reach) * 1.02, color="#EFEFEF", zorder=0)
        axis.set_xscale("log")
        axis.set_xlabel(f"budget, {study.cost.name} {study.cost.unit}")
    _limits(left, study.box)
    left.text(
        reach * 1.05,
        0.5,
        "beyond the data",
        color=style.GREY,
        fontsize=12,
        va="center",
        rotation=90,
        transform=left.get_xaxis_transform(),
    )
    left.set_ylabel("optimal sparsity, 1 - d")
    left.legend(loc="center left")
    log_axis(right, "y", epoch_ticks(study.box.epochs[1]))
    right.set_ylabel("optimal epochs")
    return made


@picture
def sparsity_over_unique(study: Study) -> Figure:
    """Optimal sparsity against U: at fixed budgets, and at fixed C / U^2, where a tied law must be
    flat.
    """
    if study.fit is None or study.draws is None or len(study.curves) < 2:
        return nothing(
            "Optimal sparsity and data",
            study.cautions[:1] if study.fit is None else ("needs at least two unique-token budgets",),
        )
    made, axes = figure(1, 2, (13.5, 5.6), "Optimal sparsity against unique tokens")
    points = study.runs.points
    unique = np.geomspace(points.unique.min(), points.unique.max(), ALONG)
    spent = study.cost.of(points)
    budgets = np.geomspace(np.quantile(spent, 0.3), spent.max(), 3)
    relative = np.geomspace(np.quantile(spent / points.unique**2, 0.3), np.quantile(spent / points.unique**2, 0.95), 3)
    for index in range(3):
        found = _along(study, np.full(ALONG, budgets[index]), unique)
        _band(axes[0, 0], unique, found, study.draws, index, f"C = {budgets[index]:.2g} {study.cost.unit}", _sparsity)
        found = _along(study, relative[index] * unique**2, unique)
        _band(axes[0, 1], unique, found, study.draws, index, f"C / U² = {relative[index]:.2g}", _sparsity)
    for axis, title in zip(axes[0], ("at a fixed budget", "at a fixed budget relative to U²"), strict=True):
        log_axis(axis, "x")
        axis.set_title(title)
        axis.set_xlabel("unique tokens U")
        _limits(axis, study.box)
        axis.legend(loc="best")
    axes[0, 0].set_ylabel("optimal sparsity, 1 - d")
    return made


def _along(study: Study, budgets: Array, unique: Array) -> Array:
    """(draws + 1, m) optimal densities at m pairs of budget and U."""
    assert study.fit is not None
    assert study.draws is not None
    theta = np.concatenate([study.fit.theta[None], study.draws.theta[:DRAWS]])
    found: Optimum = search(
        study.fit.law,
        np.repeat(theta, len(unique), axis=0),
        study.box,
        np.tile(budgets, len(theta)),
        np.tile(unique, len(theta)),
        study.cost,
    )
    return found.density.reshape(len(theta), len(unique))


def _band(
    axis: Axes, x: Array, values: Array, draws: Draws, index: int, label: str, transform: Callable[[Array], Array]
) -> None:
    """A curve with its band where the budget fits a run; values are (draws + 1, m), the fit's own
    first.
    """
    known = np.isfinite(values[0])
    if not known.any():
        return
    logs = np.log(values[:, known])
    low, high = np.exp(draws.interval(logs[1:], logs[0]))
    color = style.PALETTE[index % len(style.PALETTE)]
    ends = np.clip(np.stack([low, high]), np.nanmin(values), np.nanmax(values))
    axis.fill_between(x[known], transform(ends[0]), transform(ends[1]), color=color, alpha=0.15, linewidth=0)
    axis.plot(x[known], transform(values[0, known]), color=color, label=label, marker=style.MARKERS[index], markevery=3)


def _sparsity(density: Array) -> Array:
    return 1.0 - density


def _same(values: Array) -> Array:
    return values


def _limits(axis: Axes, box: Box) -> None:
    top = 1 - box.density[0]
    axis.set_ylim(-0.04, max(top, 0.1) * 1.09)
    if top > 0:
        axis.axhline(top, color=style.GREY, linewidth=1.2, linestyle="--", zorder=1)
        axis.text(
            0.01,
            top,
            "sparsest trained",
            color=style.GREY,
            fontsize=12,
            va="bottom",
            transform=axis.get_yaxis_transform(),
        )
