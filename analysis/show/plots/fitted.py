"""Pictures of a fit: its numbers with F(d), predicted against measured, and the profiles of its
parameters.

Each takes a `Study` and returns a figure. Lines are the law, bands its 95 % interval, markers
measured runs.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from analysis.answer.study import Study
from analysis.data.points import Array, Points
from analysis.fit.intervals import Draws
from analysis.fit.joint import Fit
from analysis.fit.profile import profile_all
from analysis.fit.select import MULTI
from analysis.show.plots import style
from analysis.show.plots.style import Look, epoch_ticks, figure, log_axis, picture


@picture
def law(study: Study) -> Figure:
    """The law's numbers, and where it has them F(d) and what repeated tokens are worth."""
    fit, draws = study.fit, study.draws
    assert fit is not None
    assert draws is not None
    panels = law_panels(fit)
    made, axes = figure(1, 1 + len(panels), (6.0 + 5.8 * len(panels), 5.6), "The fitted law")
    _numbers(axes[0, 0], fit, draws)
    tested = Look(study.shown.points.density)
    for axis, panel in zip(axes[0, 1:], panels, strict=True):
        panel(axis, fit, draws, tested)
    return made


def law_panels(fit: Fit) -> list[Callable[[Axes, Fit, Draws, Look], None]]:
    """What there is to draw of a law beside its numbers."""
    panels = [_density_factor] if fit.law.factor.parameters else []
    repeats = fit.law.saturation is not None and fit.runs.points.epochs.max() > MULTI
    return [*panels, _repetition] if repeats else [*panels]


def _numbers(axis: Axes, fit: Fit, draws: Draws) -> None:
    axis.set_axis_off()
    axis.set_title(fit.law.name)
    intervals = draws.parameter_intervals()
    lines = [*_wrapped(fit.law.formula), ""]
    for name, value in fit.parameters.items():
        low, high = intervals[name]
        lines.append(f"{name:<6}{value:>9.4g}  [{low:.3g}, {high:.3g}]")
    lines += ["", f"{len(fit.runs)} runs, RMSE {fit.rmse:.4f} nats, R² {fit.r2:.3f}"]
    size = float(np.clip(250 / len(lines), 10, 14))
    axis.text(0.0, 0.99, "\n".join(lines), family="monospace", fontsize=size, va="top", transform=axis.transAxes)


def _wrapped(formula: str) -> list[str]:
    """One line per term: `A (exp(k (1-d) + m (1-d)^2)) / N_eff^alpha` is one term."""
    lines, depth, line = [], 0, ""
    for word in formula.split(" "):
        if word == "+" and depth == 0:
            lines.append(line)
            line = "   "
        depth += word.count("(") - word.count(")")
        line += f" {word}" if line else word
    return [*lines, line]


def _density_factor(axis: Axes, fit: Fit, draws: Draws, look: Look) -> None:
    axis.set_title("Worth of density, F(d)")
    tested = np.array(look.levels[::-1])
    grid = np.geomspace(tested.min() if tested.min() < 1 else 0.1, 1.0, 80)
    value = fit.law.log_factor(fit.theta[None], grid)[0]
    low, high = np.exp(draws.interval(fit.law.log_factor(draws.theta, grid), value))
    axis.fill_between(grid, low, high, color=style.PALETTE[0], alpha=0.2, linewidth=0, label="95 % of the mean")
    axis.plot(grid, np.exp(value), color=style.PALETTE[0], label="F(d)")
    axis.plot(
        tested,
        np.exp(fit.law.log_factor(fit.theta[None], tested)[0]),
        "o",
        color=style.PALETTE[0],
        label="densities trained",
    )
    axis.axhline(1.0, color=style.GREY, linewidth=1.2, linestyle="--")
    log_axis(axis, "x", list(tested))
    axis.set_xlabel("density d")
    axis.set_ylabel("F(d)   (below 1: better)")
    axis.legend(loc="best")


def _repetition(axis: Axes, fit: Fit, draws: Draws, look: Look) -> None:
    axis.set_title("Worth of repeated tokens")
    points = fit.runs.points
    most = points.epochs.max()
    assert fit.law.saturation is not None
    unique, top = float(np.median(points.unique)), 1.0
    epochs = np.geomspace(1.0, most, 60)
    axis.plot(epochs, epochs, "--", color=style.GREY, linewidth=1.4, label="fresh tokens")
    varies = fit.law.saturation.shape != "constant"
    for level in look.levels if varies else look.levels[:1]:
        where = Points.at(np.median(points.active), level, unique, unique * epochs)
        worth = np.log(_effective_epochs(fit, fit.theta[None], where)[0])
        low, high = np.exp(draws.interval(np.log(_effective_epochs(fit, draws.theta, where)), worth))
        axis.fill_between(epochs, low, high, color=look.color(level), alpha=0.15, linewidth=0)
        axis.plot(epochs, np.exp(worth), color=look.color(level), label=f"d = {level:.3g}" if varies else "any density")
        top = max(top, float(high.max()))
    log_axis(axis, "x", epoch_ticks(most))
    axis.set_ylim(0.8, min(most, 1.15 * top) + 0.3)
    axis.set_xlabel("epochs")
    axis.set_ylabel("effective epochs, D_eff / U")
    axis.legend(loc="upper left")


def _effective_epochs(fit: Fit, theta: Array, points: Points) -> Array:
    return fit.law.effective_tokens(theta, points) / points.unique


@picture
def predicted_vs_measured(study: Study) -> Figure:
    """Every run's loss against the law's, and the residuals along compute."""
    assert study.fit is not None
    made, axes = figure(1, 2, (13, 5.6), f"Predicted against {study.word} loss")
    left, right = axes[0]
    runs, look = study.shown, Look(study.shown.points.density)
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
    left.set_xlabel(f"{study.word} loss, nats/token")
    left.set_ylabel("predicted loss, nats/token")
    measured = [mark for mark in study.marks if not mark.answer and not study.tuned]  # their own losses
    at = Points.at(
        *np.array([[m.active, m.density, m.unique or m.tokens, m.tokens] for m in measured]).T.reshape(4, -1)
    )
    best = study.fit.predict(at) if measured else np.zeros(0)
    style.marked(left, [(m.loss.value, float(p), False) for m, p in zip(measured, best, strict=True)])
    style.marked(right, [(m.cost, 100 * (p / m.loss.value - 1), False) for m, p in zip(measured, best, strict=True)])
    left.legend(loc="upper left")
    left.set_title(f"{len(study.runs)} runs, RMSE {study.fit.rmse:.4f}, R² {study.fit.r2:.3f}")
    right.axhline(0, color=style.GREY, linewidth=1.2)
    right.set_xscale("log")
    right.xaxis.set_minor_formatter(NullFormatter())
    right.xaxis.set_major_locator(LogLocator(subs=(1.0, 3.0)))
    right.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0e}"))
    right.set_xlabel(f"cost, {study.cost.words}")
    right.set_ylabel(f"predicted - {study.word}, %")
    right.set_title("Residuals along compute")
    return made


@picture
def profiles(study: Study) -> Figure:
    """How fast the fit gets worse as each parameter is pushed away, all others refitted."""
    assert study.fit is not None
    names = [parameter.name for parameter in study.fit.problem.parameters]
    columns = min(4, len(names))
    rows = -(-len(names) // columns)
    made, axes = figure(rows, columns, (4.2 * columns, 3.3 * rows), "Profiles: is each parameter limited by the runs?")
    for axis, name, curve in zip(axes.ravel(), names, profile_all(study.fit, names), strict=False):
        axis.axhline(curve.threshold, color=style.GREY, linewidth=1.2, linestyle="--")
        axis.axvspan(
            max(curve.low, curve.values[0]),
            min(curve.high, curve.values[-1]),
            color=style.PALETTE[0],
            alpha=0.13,
            linewidth=0,
        )
        axis.plot(curve.values, curve.excess, color=style.PALETTE[1] if curve.open else style.PALETTE[0])
        axis.plot(study.fit.stored[name], 0, "o", color=style.PALETTE[0])
        axis.set_ylim(-0.4, 4 * curve.threshold)
        axis.set_title(f"{name} (open)" if curve.open else name)
        axis.set_xlabel(name)
        axis.locator_params(axis="x", nbins=4)
    for axis in axes[:, 0]:
        axis.set_ylabel("scaled increase")
    for axis in axes.ravel()[len(names) :]:
        axis.set_axis_off()
    return made
