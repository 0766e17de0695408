"""One trial from its spec to its outcome, in this process, with no Ray: in a notebook, a debugger,
or on a bare machine.

`run` is the only way a trial is trained. The Ray worker calls
it, the inline executor calls it, tests call it; so a sweep on a cluster and a run under a debugger
are the same program. If a torch process group is initialised, the ranks share the work. If `folder`
holds a checkpoint, the run continues from it.

Left out: writing the results row and deciding what to do about failures (`sweep`).
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import importlib.metadata
import math
import platform
import time
from collections.abc import Callable, Sequence

import torch

import raysparse
from raysparse import faults
from raysparse.checkout import git_commit
from raysparse.data.order import Batches
from raysparse.data.store import TokenStore
from raysparse.files import Folder
from raysparse.memory import worker_share
from raysparse.placement import Placement
from raysparse.results import Evaluation, Outcome, Status
from raysparse.run_folder import SPEC
from raysparse.spec import TrialSpec
from raysparse.train import checkpoint, device, ranks
from raysparse.train.hooks import Checkpoint, Evaluate, Hook, Metrics, StopTrial, TensorBoard, UpdateTopology
from raysparse.train.state import TrainState
from raysparse.train.step import Diverged, StepRecord, steps


def run(
    spec: TrialSpec,
    store: TokenStore,
    folder: Folder,
    *,
    placement: Placement | None = None,
    hooks: Sequence[Hook] = (),
    is_leaving: Callable[[], bool] = lambda: False,
) -> Outcome:
    """Train `spec` on the tokens of `store`, keeping spec.json, metrics.jsonl, checkpoint/ and
    tensorboard/ in `folder`. `is_leaving` is asked after every step whether this machine is about
    to go away: then a checkpoint is written at once.

    Returns an Outcome that is completed, diverged (a loss or gradient is no number, also the last
    validation loss), or pruned (a hook raised StopTrial). Raises ValueError for a device that is
    not there, a spec that does not fit the store or a damaged checkpoint; everything else that goes
    wrong is raised as it is.
    """
    started = time.perf_counter()
    placement = device.fitted(spec, placement or Placement())
    torch.set_num_threads(placement.threads)
    device.begin(torch.device(placement.device))
    batches = Batches(store, spec)
    state = TrainState(spec, placement)
    if not checkpoint.load(folder, state, resume=True) and spec.parent:
        checkpoint.begin(folder, state, store.manifest.tokenizer_fingerprint)
    everyone: list[Hook] = [UpdateTopology(), Evaluate(batches), *hooks]
    if ranks.rank() == 0:
        folder.write_json(SPEC, spec.to_dict())
        log, seconds = Metrics(folder), placement.checkpoint_seconds
        everyone += [log, TensorBoard(folder), Checkpoint(folder, seconds, is_leaving, first=log.written_down)]
    began = started - state.seconds_total  # as if it were one attempt
    status, reason = _train(state, batches, everyone, began)
    faults.point("trial.trained")
    if ranks.rank() == 0:
        checkpoint.retire(folder, state)
    return _outcome(state, store, status, reason, seconds=time.perf_counter() - began)


def _outcome(state: TrainState, store: TokenStore, status: Status, reason: str, seconds: float) -> Outcome:
    """seconds: of all attempts, in all."""
    evaluations, spoilt = finite(state.evaluations)
    if spoilt and status != "diverged":
        status, reason = "diverged", spoilt
    loss = evaluations[-1].loss if evaluations and not spoilt else None
    return Outcome(
        status=status,
        reason=reason,
        train_loss=sum(state.late_losses) / len(state.late_losses) if state.late_losses else None,
        validation_loss=loss,
        validation_bits_per_byte=loss / math.log(2) / store.bytes_per_token if loss is not None else None,
        evaluations=evaluations,
        steps=state.step,
        tokens=state.tokens,
        seconds=state.seconds,
        seconds_total=seconds,
        bytes_measured=state.bytes_by_kind(),
        micro_batch=state.placement.micro_batch or worker_share(state.spec, state.placement),
        recompute=state.placement.recompute,
        device=device_name(state.device),
        versions=versions(),
        git_commit=git_commit(),
        host=platform.node(),
        corpus_fingerprint=store.corpus_fingerprint,
    )


def _train(state: TrainState, batches: Batches, hooks: Sequence[Hook], began: float) -> tuple[Status, str]:
    """Run to the end, or to the reason why not. Hooks are finished however it ends. began: by
    `time.perf_counter`.
    """
    with contextlib.ExitStack() as stack:
        for hook in hooks:
            hook.start(state)
            stack.callback(hook.finish, state)
        try:
            for record in steps(state, batches):
                state.seconds_total = time.perf_counter() - began
                _tell(hooks, state, record)
        except Diverged as diverged:
            return "diverged", str(diverged)
        except StopTrial as stop:
            return "pruned", str(stop)
    return "completed", ""


def _tell(hooks: Sequence[Hook], state: TrainState, record: StepRecord) -> None:
    """Every hook hears of a step, also of one after which another hook wants to stop."""
    wishes = []
    for hook in hooks:
        try:
            hook.after_step(state, record)
        except StopTrial as wish:
            wishes.append(wish)
    if wishes:
        raise wishes[0]


def finite(evaluations: Sequence[Evaluation]) -> tuple[tuple[Evaluation, ...], str]:
    """The evaluations whose losses are numbers, without an average's that is none; and what there
    is to say of the last one if it is not among them, else "".
    """
    found = tuple(
        evaluation
        if evaluation.average_loss is None or math.isfinite(evaluation.average_loss)
        else dataclasses.replace(evaluation, average_loss=None)
        for evaluation in evaluations
        if math.isfinite(evaluation.loss)
    )
    last = evaluations[-1] if evaluations else None
    if last is None or math.isfinite(last.loss):
        return found, ""
    return found, f"validation loss {last.loss:.4g} after step {last.step}"


def device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"{platform.machine()} CPU"


@functools.cache
def versions() -> dict[str, str]:
    """Of whatever can change a result in its last bits."""
    found = {"raysparse": raysparse.__version__, "torch": str(torch.__version__), "python": platform.python_version()}
    for name in ("triton", "liger-kernel"):  # used on a GPU
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found
