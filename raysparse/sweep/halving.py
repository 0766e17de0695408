"""Early stopping: asynchronous successive halving (ASHA, Li et al. 2020, arXiv 1810.05934), on
fractions of a trial's own budget and among trials of the same budget.

Only such trials are compared: a learning-rate schedule knows the length of its run, so a short
trial at its end and a long one in its middle say nothing about each other. A stopped trial is
labelled `pruned` with the reason, and never enters a fit. The rule is plain Python and belongs to
the broker, so it is the same under Ray and without, and after a restart it is rebuilt from rows.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from raysparse.record import Record, require
from raysparse.spec import TrialSpec

SAME = 1.1  # budgets whose ratio is at most this are one


@dataclass(frozen=True, kw_only=True)
class Halving(Record):
    """One in `keep` trials goes on at each rung; rungs are the evaluations from `first` (a fraction
    of the run) on, and a rung decides once `keep` trials have reached it.
    """

    keep: int = 3
    first: float = 0.25

    def __post_init__(self) -> None:
        require(self.keep >= 2, "halving.keep", self.keep, "2 or more")
        require(0.0 < self.first < 1.0, "halving.first", self.first, "a fraction of the run in (0, 1)")


class Rungs:
    """What was measured at every rung so far.

    A trial is compared with all whose prices are near its own, so what it is told depends on which
    evaluations came before, as it must, and not on their order.
    """

    def __init__(self, rule: Halving):
        self.rule = rule
        self._measured: dict[Fraction, dict[str, tuple[float, float]]] = defaultdict(dict)  # price and loss by trial id

    def learn(self, spec: TrialSpec, price: float, row: Mapping[str, Any]) -> None:
        """The evaluations of a row from an earlier session."""
        for evaluation in row["evaluations"] or ():
            self._note(spec, price, evaluation["step"], evaluation["loss"])

    def judge(self, spec: TrialSpec, price: float, step: int, loss: float) -> str:
        """Note an evaluation; the answer is empty, or why the trial should stop now. A loss that is
        no number says nothing of other trials, and its own ends as diverged without being told.
        """
        if not math.isfinite(loss):
            return ""
        self._note(spec, price, step, loss)
        rung = rung_of(spec, step)
        losses = self._near(rung, price)
        if step >= spec.steps or float(rung) < self.rule.first or len(losses) < self.rule.keep:
            return ""
        best = losses[: max(1, len(losses) // self.rule.keep)]
        if loss <= best[-1]:
            return ""
        share = f"1 of {self.rule.keep} goes on"
        return f"halving at {float(rung):.0%}: loss {loss:.3f}, {share} of {len(losses)}, up to {best[-1]:.3f}"

    def _note(self, spec: TrialSpec, price: float, step: int, loss: float) -> None:
        if math.isfinite(loss):
            self._measured[rung_of(spec, step)][spec.trial_id] = price, loss

    def _near(self, rung: Fraction, price: float) -> list[float]:
        """The losses at a rung of trials of the same budget, ascending."""
        measured = self._measured[rung].values()
        return sorted(loss for other, loss in measured if max(price, other) <= SAME * min(price, other))


def rung_of(spec: TrialSpec, step: int) -> Fraction:
    """Which of its evaluations a trial has after a step, as the fraction of the run that it stands
    for; the step itself is rounded, in runs of different lengths differently.
    """
    return Fraction(round(Fraction(step * spec.evaluations, spec.steps)), spec.evaluations)
