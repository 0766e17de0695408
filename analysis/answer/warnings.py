"""What a reader must know before acting on a number, as sentences; the same for every verb.

Four things are judged: the table (few rows, no replicates, a loss that does not vary), the fit
(what it explains, whether it misses by more than seeds do, intervals of no width, parameters that
are not identified), the ensemble (outliers by name, draws that did not converge, how far the laws
differ at the answer), and the place of a prediction (how far the nearest run is). A warning changes
no number.
"""

from __future__ import annotations

import numpy as np

from analysis.answer.ensemble import Ensemble
from analysis.data.points import Points
from analysis.data.table import Runs
from analysis.fit.flags import fit_flags
from analysis.fit.intervals import Draws
from analysis.fit.joint import Fit

FEW = 30  # fewer runs than this is said aloud
EXPLAINS = 0.5  # a share of the variance below this is not to be acted on
CHANCE = 0.01  # a lack of fit that pure noise gives more rarely than this is said
PURE = 4  # degrees of freedom of the noise between replicates that a lack of fit is judged with
CONVERGED = 0.95  # a smaller share of draws is said aloud
FAR = np.log(1.5)  # ln units to the nearest run, in its farthest coordinate, from which it is said
APART = 0.01  # relative difference of a law and the ensemble at the answer that is said


def of_fit(runs: Runs, fitted: Fit, draws: Draws) -> tuple[str, ...]:
    """Of the table and one law fitted to it. runs: the rows of the table, also where the law is
    fitted to its points at their best settings.
    """
    found = []
    rows, free = len(runs), len(fitted.law.names)
    if rows < max(FEW, 4 * free):
        found.append(f"few rows: {rows} runs for {free} parameters")
    if len(np.unique(runs.group)) == rows:
        found.append("no replicates: noise between seeds is unknown, and is taken from the residuals")
    if not fitted.r2 > EXPLAINS:
        found.append(
            f"the law explains {100 * fitted.r2:.0f} % of the variance of the loss: do not act on it"
            if np.isfinite(fitted.r2)
            else "every loss is the same: there is nothing to learn from"
        )
    if draws.noise < 1e-9:
        found.append("the law fits every row exactly: intervals have no width and vouch for nothing")
    return (*found, *lack_of_fit(fitted.runs, fitted), *fit_flags(fitted, draws))


def lack_of_fit(runs: Runs, fitted: Fit) -> tuple[str, ...]:
    """Whether the law misses the means of replicates by more than their own noise allows.

    The classical F test: mean squares of groups about the law, over those of runs about their
    group. Nothing is said where fewer than `PURE` degrees of freedom are left for either.
    """
    from scipy.special import fdtrc

    inverse, sizes = np.unique(runs.group, return_inverse=True, return_counts=True)[1:]
    residuals = fitted.residuals
    middle = np.bincount(inverse, residuals) / sizes
    pure, missing = len(runs) - len(sizes), len(sizes) - len(fitted.problem.free)
    if pure < PURE or missing < PURE:
        return ()
    noise = float(np.sum((residuals - middle[inverse]) ** 2)) / pure
    miss = float(np.sum(sizes * middle**2)) / missing
    if not noise > 0 or fdtrc(missing, pure, miss / noise) >= CHANCE:
        return ()
    return (
        f"lack of fit: the law misses by {100 * np.sqrt(miss):.2g} % of the loss where seeds differ by "
        f"{100 * np.sqrt(noise):.2g} %",
    )


def of_laws(laws: Ensemble | None) -> tuple[str, ...]:
    """Outliers by name, and draws that did not converge."""
    if laws is None:
        return ()
    found = [*_named(laws.runs.take(np.flatnonzero(laws.bad)), "what good laws say")]
    if laws.converged < CONVERGED:
        found.append(f"only {100 * laws.converged:.0f} % of the draws converged: intervals may be narrow")
    return tuple(found)


def of_aside(aside: Runs | None) -> tuple[str, ...]:
    """Outliers by name, of a model of settings."""
    return () if aside is None else _named(aside, "what the other rows say")


def _named(outliers: Runs, what: str) -> tuple[str, ...]:
    rows = zip(outliers.ids, outliers.loss, strict=True)
    return tuple(f"{name} is far from {what} (loss {loss:.4f}): an outlier, it weighs nothing" for name, loss in rows)


def of_difference(answer: float, alone: float, law: str) -> tuple[str, ...]:
    """Where one law and the average of laws differ at the answer: losses in nats."""
    if not abs(alone / answer - 1.0) > APART:
        return ()
    return (f"{law} alone says {alone:.4f} there, the average of laws {answer:.4f}: the choice of law matters",)


def of_distance(runs: Runs, at: Points) -> tuple[str, ...]:
    """How far the nearest run is from each of the points (k,), where any is far."""
    names = ("N", "density", "unique tokens", "tokens")
    columns = ("log_active", "log_density", "log_unique", "log_tokens")
    away = np.stack([np.abs(getattr(at, c)[:, None] - getattr(runs.points, c)) for c in columns])  # (4, k, n)
    farthest = away.max(axis=0)
    nearest = farthest.argmin(axis=1)
    gaps = farthest[np.arange(len(at)), nearest]
    row = int(gaps.argmax())
    if gaps[row] <= FAR:
        return ()
    which = names[int(away[:, row, nearest[row]].argmax())]
    said = f"the nearest run, {runs.ids[nearest[row]]}, is a factor {np.exp(gaps[row]):.2g} away in {which}"
    return (
        said + (f" ({int((gaps > FAR).sum())} of {len(at)} points are that far or farther)" if len(at) > 1 else ""),
    )
