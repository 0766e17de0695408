"""Everything a training run carries from one step to the next, as one object with a `state_dict`.

Whatever is not in here cannot influence the rest of the run. There is no generator state and no
data cursor beyond the step count, because random choices and the order of the data are functions of
(seed, step). Gradients are zero between steps. So a run that is interrupted after any step and
resumed equals one that was not, bit for bit.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from raysparse.model.llama import Llama
from raysparse.placement import Placement
from raysparse.results import Evaluation
from raysparse.sparsity.arena import MOMENT_DTYPE, adopt
from raysparse.sparsity.optimizer import Group, Smet
from raysparse.sparsity.storage import SparseWeights
from raysparse.sparsity.topology import Change, Topology
from raysparse.spec import TrialSpec
from raysparse.train.reduce import GradientReducer


class TrainState:
    """Weights, optimizer and counters of one trial on one rank; identical on every rank between
    steps.
    """

    def __init__(self, spec: TrialSpec, placement: Placement):
        self.spec, self.placement = spec, placement
        self.device = torch.device(placement.device)
        self.weights = SparseWeights(spec, device=self.device, resident=placement.resident)
        self.model = Llama(spec, self.weights, placement.recompute, compiled=placement.compile).to(self.device)
        moments = MOMENT_DTYPE[spec.optimizer.moments]
        averages = spec.optimizer.average > 0
        tables = adopt(self.model.tables(), moments=moments, averages=averages)
        norms = adopt(self.model.norms(), moments=moments, averages=averages)
        self.groups = {
            "sparse": Group(self.weights.arena, factor=spec.sparsity.learning_rate_factor),
            "tables": Group(tables),
            "norms": Group(norms, decays=False),
        }
        self.optimizer = Smet(spec, list(self.groups.values()))
        self.topology = Topology(spec)
        self.reducer = GradientReducer(self.weights, [tables.grad, norms.grad])
        self.step = 0
        self.seconds = 0.0  # in training steps, of all the attempts that this run was resumed from
        self.seconds_total = 0.0  # of them in all, each from its begin to its last checkpoint
        self.evaluations: list[Evaluation] = []
        self.late_losses: list[float] = []  # training losses of the last tenth of the steps
        self.last_change: Change | None = None
        self.fetched: tuple[tuple[int, ...], Tensor | None] = (), None  # rows read ahead, and which they are
        self.being_copied: torch.cuda.Event | None = None  # a copy of this state on another stream, until it is made

    @property
    def tokens(self) -> int:
        return self.step * self.spec.tokens_per_step

    @property
    def is_done(self) -> bool:
        return self.step >= self.spec.steps

    def before_change(self) -> None:
        """To be called before a step changes anything that lives from step to step: on a GPU such
        changes come after a copy that was begun.
        """
        if self.being_copied is not None:
            torch.cuda.current_stream(self.device).wait_event(self.being_copied)
            self.being_copied = None

    @contextlib.contextmanager
    def averaged(self) -> Iterator[None]:
        """Inside the `with` the model has its averaged weights; for evaluation only."""
        with contextlib.ExitStack() as stack:
            for group in self.groups.values():
                stack.enter_context(group.arena.averaged())
            yield

    def state_dict(self) -> dict[str, Any]:
        return {
            "trial_id": self.spec.trial_id,
            "step": self.step,
            "seconds": self.seconds,
            "seconds_total": self.seconds_total,
            "evaluations": [dataclasses.asdict(e) for e in self.evaluations],
            "late_losses": list(self.late_losses),
            "weights": self.weights.state_dict(),
            "tables": self.groups["tables"].arena.states(),
            "norms": self.groups["norms"].arena.states(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a state of the same trial. Raises ValueError for another trial's."""
        if state["trial_id"] != self.spec.trial_id:
            raise ValueError(
                f"this state is of trial {state['trial_id']}, not of {self.spec.trial_id}; give each its own folder"
            )
        self.step, self.seconds = state["step"], state["seconds"]
        self.seconds_total = state.get("seconds_total", self.seconds)  # not in checkpoints of older versions
        self.evaluations = [Evaluation(**e) for e in state["evaluations"]]
        self.late_losses = list(state["late_losses"])
        self.weights.load_state_dict(state["weights"])
        self.groups["tables"].arena.load(state["tables"])
        self.groups["norms"].arena.load(state["norms"])

    def bytes_by_kind(self) -> dict[str, int]:
        """Bytes really held by weights, gradients, moments, average, ages, layout and scratch; on
        a GPU also the allocator's peak.
        """
        held = self.weights.bytes_by_kind()
        for name in ("tables", "norms"):
            for kind, size in self.groups[name].arena.bytes_by_kind().items():
                held[kind] += size
        if self.device.type == "cuda":
            held["peak"] = torch.cuda.max_memory_allocated(self.device)
        return held
