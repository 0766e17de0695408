"""Picture of compute-optimal training where every token is fresh: N_opt(C), D_opt(C), tokens a
parameter.
"""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from analysis.answer.fresh import Fresh
from analysis.answer.study import Study
from analysis.data.points import Array
from analysis.show.plots import style
from analysis.show.plots.style import figure, log_axis, picture, power


@picture
def compute_optimal(study: Study) -> Figure:
    """N_opt, D_opt and D_opt / N_opt along compute, by the law and by the runs."""
    found = study.fresh
    assert found is not None
    made, axes = figure(1, 3, (17.5, 5.8), "Compute-optimal size and tokens")
    dense = study.shown.take(study.shown.points.density == 1.0)
    spent = study.cost.of(dense.points)
    ratio = found.tokens / found.active
    columns: tuple[tuple[str, Array, Array], ...] = (
        ("active parameters N", found.active, dense.points.active),
        ("tokens D", found.tokens, dense.points.tokens),
        ("tokens per parameter", ratio, dense.points.tokens / dense.points.active),
    )
    for axis, (label, curve, runs) in zip(axes[0], columns, strict=True):
        axis.plot(spent, runs, ".", color="#BBBBBB", label="runs", zorder=1)
        low, high = (np.exp(limit) for limit in found.draws.interval(np.log(curve[1:]), np.log(curve[0])))
        axis.fill_between(found.budgets, low, high, color=style.PALETTE[0], alpha=0.2, linewidth=0, label="95 %")
        axis.plot(found.budgets, curve[0], color=style.PALETTE[0], label=f"law ({found.law})")
        axis.axvspan(float(spent.max()), found.budgets[-1], color="#EFEFEF", zorder=0)
        log_axis(axis, "x", label=power)
        axis.set_xlabel(f"budget, {study.cost.words}")
        log_axis(axis, "y")
        axis.set_ylabel(label)
    _roads(study, found, axes[0])
    stars = [mark for mark in study.marks if mark.density == 1.0]
    style.marked(axes[0, 0], [(mark.cost, mark.active, mark.answer) for mark in stars])
    style.marked(axes[0, 1], [(mark.cost, mark.tokens, mark.answer) for mark in stars])
    style.marked(axes[0, 2], [(mark.cost, mark.tokens / mark.active, mark.answer) for mark in stars])
    axes[0, 0].legend(loc="upper left", fontsize=11)
    return made


def _roads(study: Study, found: Fresh, axes: Array) -> None:
    """The optima of the approaches that read them off the runs."""
    for index, road in enumerate(found.roads[:-1], start=1):
        if road.a is None:
            continue
        log_size = np.log(road.active)
        tokens = np.exp(study.cost.log_tokens(np.log(road.cost), log_size, np.zeros(len(log_size))))
        look = {"color": style.PALETTE[index], "marker": style.MARKERS[index], "linestyle": "none"}
        name = road.name.split(", ")[1]
        axes[0].plot(road.cost, road.active, label=f"{name}, a = {road.a.value:.2f}", **look)
        axes[1].plot(road.cost, tokens, **look)
        axes[2].plot(road.cost, tokens / road.active, **look)
