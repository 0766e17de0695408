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
from typing import Any

from raysparse.record import Record, require
from raysparse.spec import TrialSpec

SAME = math.log(1.1)  # budgets a tenth apart or less are one


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
    """What was measured at every rung so far."""

    def __init__(self, rule: Halving):
        self.rule = rule
        self._losses: dict[tuple[int, float], dict[str, float]] = defaultdict(dict)

    def learn(self, spec: TrialSpec, price: float, row: Mapping[str, Any]) -> None:
        """The evaluations of a row from an earlier session."""
        for evaluation in row["evaluations"] or ():
            self._note(spec, price, evaluation["step"], evaluation["loss"])

    def judge(self, spec: TrialSpec, price: float, step: int, loss: float) -> str:
        """Note an evaluation; the answer is empty, or why the trial should stop now."""
        losses = self._note(spec, price, step, loss)
        if step >= spec.steps or step < self.rule.first * spec.steps or len(losses) < self.rule.keep:
            return ""
        best = sorted(losses.values())[: max(1, len(losses) // self.rule.keep)]
        if loss <= best[-1]:
            return ""
        share = f"1 of {self.rule.keep} goes on"
        return f"halving at {step / spec.steps:.0%}: loss {loss:.3f}, {share} of {len(losses)}, up to {best[-1]:.3f}"

    def _note(self, spec: TrialSpec, price: float, step: int, loss: float) -> dict[str, float]:
        losses = self._losses[round(math.log(price) / SAME), round(step / spec.steps, 2)]
        losses[spec.trial_id] = loss
        return losses
