"""The report's five pictures of a study: law, predicted against measured, isoFLOP, epochs, optimal sparsity.

Each function takes a `Study` and returns a figure; saving is `style.save`'s. Every line is the fitted law, every
band its 95 % bootstrap interval, every marker a measured run. A picture that the table cannot give says why.
"""

from __future__ import annotations

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.fit.intervals import Draws, percentiles
from analysis.fit.joint import Fit
from analysis.optimum import Box
from analysis.plots import style
from analysis.plots.style import Look, figure, log_axis, note
from analysis.points import Array, Points
from analysis.study import Study
from analysis.units import count

NEAR = 0.3  # ln units of compute within which a run is shown on an isoFLOP curve


def law(study: Study) -> Figure:
    """The law's numbers, F(d) with its band, and what repeated tokens are worth."""
    made, axes = figure(1, 3, (17.5, 5.4), "The fitted law")
    numbers, density, repetition = axes[0]
    if study.fit is None or study.draws is None:
        for axis, text in zip(axes[0], (study.cautions[0], "", ""), strict=True):
            note(axis, text)
        return made
    _numbers(numbers, study.fit, study.draws)
    _density_factor(density, study.fit, study.draws)
    _repetition(repetition, study.fit, study.draws)
    return made


def _numbers(axis: Axes, fit: Fit, draws: Draws) -> None:
    axis.set_axis_off()
    axis.set_title(fit.law.name)
    intervals = draws.parameter_intervals()
    lines = [_wrapped(fit.law.formula), ""]
    for name, value in fit.parameters.items():
        low, high = intervals[name]
        lines.append(f"{name:<6}{value:>9.4g}  [{low:.3g}, {high:.3g}]")
    lines += ["", f"{len(fit.runs)} runs, RMSE {fit.rmse:.4f} nats, R² {fit.r2:.3f}"]
    small = 12.5 if len(lines) <= 18 else 11
    axis.text(0.0, 0.98, "\n".join(lines), family="monospace", fontsize=small, va="top", transform=axis.transAxes)


def _wrapped(formula: str) -> str:
    head, *rest = formula.split(" + ")
    return "\n    + ".join([head, *rest])


def _density_factor(axis: Axes, fit: Fit, draws: Draws) -> None:
    axis.set_title("Worth of density, F(d)")
    if not fit.law.factor.parameters:
        note(axis, "this law has no density factor")
        return
    tested = np.unique(fit.runs.points.density)
    grid = np.geomspace(tested.min() if tested.min() < 1 else 0.1, 1.0, 80)
    value = np.exp(fit.law.log_factor(fit.theta[None], grid))[0]
    low, high = percentiles(np.exp(fit.law.log_factor(draws.theta, grid)))
    axis.fill_between(grid, low, high, color=style.PALETTE[0], alpha=0.2, linewidth=0, label="95 %")
    axis.plot(grid, value, color=style.PALETTE[0], label=f"F = {fit.law.factor.formula}")
    at = np.exp(fit.law.log_factor(fit.theta[None], tested))[0]
    axis.plot(tested, at, "o", color=style.PALETTE[0])
    log_axis(axis, "x", list(tested))
    axis.xaxis.set_major_formatter(lambda value, _: f"{value:.3g}")
    axis.set_xlabel("density d")
    axis.set_ylabel("F(d), below 1 is better")
    axis.legend(loc="best")


def _repetition(axis: Axes, fit: Fit, draws: Draws) -> None:
    axis.set_title("Worth of repeated tokens")
    points = fit.runs.points
    most = points.epochs.max()
    if fit.law.saturation is None or most <= 1.05:
        note(axis, "no repetition in this law")
        return
    look, unique = Look(points.density), float(np.median(points.unique))
    epochs = np.geomspace(1.0, most, 60)
    axis.plot(epochs, epochs, "--", color=style.GREY, linewidth=1.4, label="fresh tokens")
    for level in look.levels:
        where = Points.at(np.median(points.active), level, unique, unique * epochs)
        worth = _effective_epochs(fit, fit.theta[None], where)[0]
        low, high = percentiles(_effective_epochs(fit, draws.theta, where))
        axis.fill_between(epochs, low, high, color=look.color(level), alpha=0.13, linewidth=0)
        axis.plot(epochs, worth, color=look.color(level), label=f"d = {level:.3g}")
    log_axis(axis, "x", _epoch_ticks(points.epochs))
    axis.set_ylim(0.8, min(most, 1.15 * high.max() + 0.5))
    axis.set_xlabel("epochs")
    axis.set_ylabel("effective epochs, D_eff / U")
    axis.legend(loc="upper left")


def _effective_epochs(fit: Fit, theta: Array, points: Points) -> Array:
    return fit.law.effective_tokens(theta, points) / points.unique


def _epoch_ticks(epochs: Array) -> list[float]:
    top = int(np.ceil(np.log2(max(epochs.max(), 2.0))))
    return [float(2**power) for power in range(top + 1)]


def predicted_vs_measured(study: Study) -> Figure:
    """Every run's loss against the law's, and the residuals along compute."""
    made, axes = figure(1, 2, (13, 5.6), "Predicted against measured loss")
    left, right = axes[0]
    runs, look = study.runs, Look(study.runs.points.density)
    if study.fit is None:
        note(left, study.cautions[0])
        note(right, "")
        return made
    predicted = study.fit.predict(runs.points)
    residual = 100 * (predicted / runs.loss - 1)
    spent = study.cost.of(runs.points)
    for level in look.levels:
        at = runs.points.density == level
        options = {"color": look.color(level), "marker": look.marker(level), "linestyle": "none", "alpha": 0.75}
        left.plot(runs.loss[at], predicted[at], label=f"d = {level:.3g}", **options)
        right.plot(spent[at], residual[at], **options)
    ends = [min(runs.loss.min(), predicted.min()), max(runs.loss.max(), predicted.max())]
    left.plot(ends, ends, color=style.GREY, linewidth=1.2, zorder=1)
    left.set_xlabel("measured loss, nats/token")
    left.set_ylabel("predicted loss, nats/token")
    left.legend(loc="upper left")
    left.set_title(f"{len(runs)} runs, RMSE {study.fit.rmse:.4f}, R² {study.fit.r2:.3f}")
    right.axhline(0, color=style.GREY, linewidth=1.2)
    right.set_xscale("log")
    right.set_xlabel(f"{study.cost.name} cost, {study.cost.unit}")
    right.set_ylabel("predicted - measured, %")
    right.set_title("Residuals along compute")
    return made


def isoflop(study: Study) -> Figure:
    """Loss against size at equal compute, one panel per budget, one curve per density."""
    budgets = _isoflop_budgets(study)
    made, axes = figure(1, len(budgets), (5.6 * len(budgets) + 0.6, 5.4), share_y=True)
    runs, look = study.runs, Look(study.runs.points.density)
    if study.fit is None:
        note(axes[0, 0], study.cautions[0])
        for axis in axes[0, 1:]:
            note(axis, "")
        return made
    unique = float(np.unique(runs.points.unique)[-1])
    with mpl.rc_context(style.RC):
        made.suptitle(f"Equal compute, U = {count(unique)} unique tokens", fontsize=17, fontweight="bold",
                      x=0.01, ha="left")
    for axis, budget in zip(axes[0], budgets, strict=True):
        for level in look.levels:
            _isoflop_curve(axis, study, study.fit, budget, unique, level, look)
        axis.set_title(f"{budget:.2g} {study.cost.unit}")
        axis.set_xscale("log")
        axis.set_xlabel("active parameters N")
    axes[0, 0].set_ylabel("loss, nats/token")
    axes[0, 0].legend(loc="best")
    return made


def _isoflop_budgets(study: Study) -> Array:
    spent = study.cost.of(study.runs.points)
    if len(study.budgets) > 1:
        return np.asarray(study.budgets[:4])
    return np.geomspace(np.quantile(spent, 0.25), spent.max(), 3)


def _isoflop_curve(axis: Axes, study: Study, fit: Fit, budget: float, unique: float, level: float, look: Look) -> None:
    size = np.geomspace(*study.box.active, 160)
    tokens = np.exp(study.cost.log_tokens(np.log(budget), np.log(size), np.log(level)))
    inside = (tokens >= unique * 0.25) & (tokens <= unique * study.box.epochs[1])
    if inside.sum() < 3:
        return
    size, tokens = size[inside], tokens[inside]
    loss = fit.predict(Points.at(size, level, unique, tokens))
    axis.plot(size, loss, color=look.color(level), label=f"d = {level:.3g}")
    best = int(np.argmin(loss))
    axis.plot(size[best], loss[best], "*", color=look.color(level), markersize=16, zorder=4)
    runs = study.runs
    spent = study.cost.of(runs.points)
    near = (np.abs(np.log(spent / budget)) < NEAR) & (runs.points.density == level) & (runs.points.unique == unique)
    if near.any():  # a run near the budget is moved onto it along the law, so that its residual stays its own
        own = runs.points.take(near)
        moved = np.exp(study.cost.log_tokens(np.log(budget), own.log_active, own.log_density))
        ratio = fit.predict(Points.at(own.active, own.density, own.unique, moved)) / fit.predict(own)
        axis.plot(own.active, runs.loss[near] * ratio, look.marker(level), color=look.color(level),
                  markerfacecolor="white", markeredgewidth=1.8)


def loss_over_epochs(study: Study) -> Figure:
    """Loss against epochs by density: a panel per size (columns) and unique-token budget (rows)."""
    runs, look = study.runs, Look(study.runs.points.density)
    sizes = _sizes(study)
    uniques = np.unique(runs.points.unique)[-2:]
    shown = list(sizes)[:1] + list(sizes)[1:][-3:]
    made, axes = figure(len(uniques), len(shown), (5.2 * len(shown) + 0.6, 4.3 * len(uniques) + 0.6),
                        "Loss over epochs, by density")
    for row, unique in enumerate(uniques):
        for column, name in enumerate(shown):
            axis = axes[row, column]
            for level in look.levels:
                at = sizes[name] & (runs.points.unique == unique) & (runs.points.density == level)
                _epoch_curve(axis, study, at, level, float(unique), look)
            axis.set_title(f"{name}, U = {count(float(unique))}")
            log_axis(axis, "x", _epoch_ticks(runs.points.epochs))
            if row == len(uniques) - 1:
                axis.set_xlabel("epochs")
            if column == 0:
                axis.set_ylabel("loss, nats/token")
    _one_legend(axes)
    return made


def _one_legend(axes: Array) -> None:
    for axis in axes.ravel():
        if axis.get_legend_handles_labels()[1]:
            axis.legend(loc="best")
            return


def _sizes(study: Study) -> dict[str, Array]:
    """Panel name -> rows. Sizes by model name, else by N / density (the dense equivalent)."""
    runs = study.runs
    if runs.model is not None:
        names = np.unique(runs.model.astype(str))
        order = np.argsort([runs.points.active[runs.model == name].max() for name in names])
        return {str(names[i]): runs.model == names[i] for i in order}
    dense = runs.points.active / runs.points.density
    rounded = np.array([float(f"{value:.2g}") for value in dense])
    return {count(float(value)): rounded == value for value in np.unique(rounded)}


def _epoch_curve(axis: Axes, study: Study, at: Array, level: float, unique: float, look: Look) -> None:
    runs = study.runs
    if not at.any():
        return
    points = runs.points.take(at)
    if study.fit is not None:
        epochs = np.geomspace(1.0, max(2.0, runs.points.epochs.max()), 60)
        grid = Points.at(np.median(points.active), level, unique, unique * epochs)
        if study.draws is not None:
            axis.fill_between(epochs, *study.draws.predict(grid), color=look.color(level), alpha=0.13, linewidth=0)
        axis.plot(epochs, study.fit.predict(grid), color=look.color(level))
    axis.plot(points.epochs, runs.loss[at], look.marker(level), color=look.color(level), label=f"d = {level:.3g}")


def optimal_sparsity(study: Study) -> Figure:
    """Optimal sparsity and epochs against the budget, one curve per unique-token budget, with bands."""
    made, axes = figure(1, 2, (13.5, 5.6), "What to train at each budget")
    left, right = axes[0]
    if not study.curves:
        note(left, study.cautions[0])
        note(right, "")
        return made
    reach = study.cost.of(study.runs.points).max()
    for index, curve in enumerate(study.curves):
        color = style.PALETTE[index % len(style.PALETTE)]
        for axis, values in ((left, 1 - curve.density), (right, curve.epochs)):
            known = np.isfinite(values[0])
            if not known.any():
                continue
            low, high = percentiles(values[1:, known])
            axis.fill_between(curve.budgets[known], low, high, color=color, alpha=0.15, linewidth=0)
            axis.plot(curve.budgets[known], values[0, known], color=color, label=f"U = {count(curve.unique)}",
                      marker=style.MARKERS[index], markevery=4)
    for axis in (left, right):
        axis.axvspan(reach, reach * 4.2, color="#F0F0F0", zorder=0)
        axis.axvline(reach, color=style.GREY, linewidth=1.2, linestyle=":")
        axis.set_xscale("log")
        axis.set_xlabel(f"budget, {study.cost.name} {study.cost.unit}")
    _limits(left, study.box)
    left.text(reach, left.get_ylim()[1], " beyond the data", color=style.GREY, fontsize=12, va="top")
    left.set_ylabel("optimal sparsity, 1 - d")
    left.legend(loc="best")
    log_axis(right, "y", _epoch_ticks(np.array([study.box.epochs[1]])))
    right.set_ylabel("optimal epochs")
    return made


def _limits(axis: Axes, box: Box) -> None:
    top = 1 - box.density[0]
    axis.set_ylim(-0.03, max(top, 0.1) * 1.06)
    if top > 0:
        axis.axhline(top, color=style.GREY, linewidth=1.0, linestyle="--")
        axis.text(axis.get_xlim()[0], top, " sparsest tested", color=style.GREY, fontsize=12, va="bottom")


PICTURES = {
    "law": law, "predicted_vs_measured": predicted_vs_measured, "isoflop": isoflop,
    "loss_over_epochs": loss_over_epochs, "optimal_sparsity": optimal_sparsity,
}
