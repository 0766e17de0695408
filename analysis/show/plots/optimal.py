"""Pictures of the answer: optimal size, sparsity and epochs along budgets, and along unique tokens.

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
from analysis.fit.select import MULTI, levels
from analysis.show.plots import style
from analysis.show.plots.style import epoch_ticks, figure, log_axis, picture, power

ALONG = 9  # values of U along the curve
DRAWS = 30  # draws behind its band: six curves of many optima each


@picture
def optimal_sparsity(study: Study) -> Figure:
    """Optimal size, sparsity and epochs against the budget, one curve per unique-token budget, with
    bands; what does not vary in the table has no panel.
    """
    assert study.draws is not None
    points = study.runs.points
    panels = ["size"]
    panels += ["sparsity"] if levels(points.density) > 1 else []
    panels += ["epochs"] if (points.epochs > MULTI).any() else []
    made, axes = figure(1, len(panels), (6.4 * len(panels), 5.6), "What to train at each budget")
    reach = float(study.cost.of(points).max())
    last = max(curve.budgets[-1] for curve in study.curves)
    for axis, panel in zip(axes[0], panels, strict=True):
        for index, curve in enumerate(study.curves):
            values = {"size": curve.active, "sparsity": curve.density, "epochs": curve.epochs}[panel]
            transform = _sparsity if panel == "sparsity" else _same
            _band(axis, curve.budgets, values, study.draws, index, curve.label, transform)
        axis.axvspan(reach, max(last, reach) * 1.02, color="#EFEFEF", zorder=0)
        log_axis(axis, "x", label=power)
        axis.set_xlabel(f"budget, {study.cost.words}")
        at = {"size": "active", "sparsity": "density", "epochs": "epochs"}[panel]
        seen = [(mark.cost, getattr(mark, at), mark.answer) for mark in study.marks]
        style.marked(axis, [(x, 1 - y if panel == "sparsity" else y, star) for x, y, star in seen])
        if panel == "sparsity":
            _limits(axis, study.box)
            axis.set_ylabel("optimal sparsity, 1 - d")
        elif panel == "epochs":
            log_axis(axis, "y", epoch_ticks(study.box.epochs[1]))
            axis.set_ylabel("optimal epochs")
        else:
            log_axis(axis, "y")
            axis.set_ylabel("optimal active parameters N")
    axes[0, 0].text(
        reach * 1.05,
        0.5,
        "beyond the data",
        color=style.GREY,
        fontsize=12,
        va="center",
        rotation=90,
        transform=axes[0, 0].get_xaxis_transform(),
    )
    axes[0, -1].legend(loc="best", fontsize=11)
    return made


@picture
def sparsity_over_unique(study: Study) -> Figure:
    """Optimal sparsity against U: at fixed budgets, and at fixed C / U^2, where a tied law must be
    flat.
    """
    assert study.draws is not None
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
