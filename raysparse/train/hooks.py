"""What happens between the steps of a run: topology updates, evaluation, logs, checkpoints. One
class each.

A hook sees the state after every step and decides for itself whether it is its turn. The order in a
run matters and is fixed in `trial.run`: topology, evaluation, then whatever reads them, the
checkpoint last, so that a checkpoint holds all that its step caused. Hooks that write do so on rank
0 only; hooks that compute together (evaluation, progress) run on every rank.
"""

from __future__ import annotations

import json
import logging
import math
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from raysparse import counts
from raysparse.data.order import Batches
from raysparse.files import Folder
from raysparse.run_folder import METRICS, TENSORBOARD
from raysparse.train import checkpoint, ranks
from raysparse.train.evaluate import evaluate, evaluation_steps
from raysparse.train.state import TrainState
from raysparse.train.step import StepRecord

log = logging.getLogger(__name__)
AGREE = 10  # steps after which ranks ask each other whether one of them is to stop


class Hook:
    """Called before the first step, after every step, and once at the end, however the run
    ended.
    """

    def start(self, state: TrainState) -> None: ...

    def after_step(self, state: TrainState, record: StepRecord) -> None: ...

    def finish(self, state: TrainState) -> None: ...


class UpdateTopology(Hook):
    """Prune and regrow every `update_every` steps, and make sure that all ranks came to the same
    topology.
    """

    def after_step(self, state: TrainState, record: StepRecord) -> None:
        due = state.topology.due(record.step)
        state.last_change = state.topology.update(state.weights, record.step) if due else None
        if due and ranks.count() > 1 and not ranks.all_equal(state.weights.checksum(), state.device):
            raise RuntimeError(
                f"ranks disagree about the topology after step {record.step}: their weights or software differ"
            )


class Evaluate(Hook):
    """Validation loss at equal fractions of the run and at its end, kept in the state."""

    def __init__(self, batches: Batches):
        self.batches = batches

    def start(self, state: TrainState) -> None:
        self.steps = evaluation_steps(state.spec)

    def after_step(self, state: TrainState, record: StepRecord) -> None:
        if record.step in self.steps:
            state.evaluations.append(evaluate(state, self.batches))


def measurements(state: TrainState, record: StepRecord) -> dict[str, float | int]:
    """One step as flat numbers under the names that logs, TensorBoard and progress share."""
    spec = state.spec
    found: dict[str, float | int] = {
        "step": record.step,
        "tokens": state.tokens,
        "loss": record.loss,
        "lr": record.lr,
        "sparse_lr": record.lr * spec.sparsity.learning_rate_factor,
        "density": spec.sparsity.density,
        "gradient_norm": record.gradient_norm,
        "tokens_per_second": spec.tokens_per_step / record.seconds,
    }
    if state.last_change is not None:
        found["regrown_share"] = state.last_change.regrown_share
    if state.evaluations and state.evaluations[-1].step == record.step:
        found["validation_loss"] = state.evaluations[-1].loss
        if state.evaluations[-1].average_loss is not None:
            found["average_validation_loss"] = state.evaluations[-1].average_loss
    return found


def worth_logging(state: TrainState, record: StepRecord) -> bool:
    """About 200 steps of a run, and every step at which something happened."""
    happened = state.last_change is not None or (state.evaluations and state.evaluations[-1].step == record.step)
    return bool(happened) or record.step == 1 or record.step % max(1, state.spec.steps // 200) == 0


class Metrics(Hook):
    """`metrics.jsonl`: one JSON object a line. Kept in memory and rewritten whole, so a resumed run
    repeats no line; written before every checkpoint too (`Checkpoint`), so that it lacks none.
    """

    def __init__(self, folder: Folder, every_seconds: float = 10.0):
        self.folder, self.every_seconds = folder, every_seconds
        self.lines: list[str] = []

    def start(self, state: TrainState) -> None:
        if state.step and self.folder.exists(METRICS):
            earlier = self.folder.read(METRICS).decode().splitlines()
            self.lines = [line for line in earlier if json.loads(line)["step"] <= state.step]
        self.written = time.monotonic()

    def after_step(self, state: TrainState, record: StepRecord) -> None:
        if worth_logging(state, record):
            self.lines.append(json.dumps(measurements(state, record)))
        if time.monotonic() - self.written > self.every_seconds:
            self.written_down()

    def written_down(self) -> bool:
        """Whether the lines could be written; why not is named in the log, and training goes on."""
        try:
            self.write()
        except OSError as error:
            self.written = time.monotonic()
            log.warning("%s is not written (%s); training goes on", self.folder.at(METRICS), error)
            return False
        return True

    def finish(self, state: TrainState) -> None:
        self.write()

    def write(self) -> None:
        self.folder.write(METRICS, ("\n".join(self.lines) + "\n").encode())
        self.written = time.monotonic()


class TensorBoard(Hook):
    """Curves and the hparams view. Event files grow, which objects cannot, so for an object store
    they are written beside the training and sent whole: at evaluations, and at the end. An attempt
    has a file of its own, so a resumed trial keeps the curves of those before it.
    """

    def __init__(self, folder: Folder, every_seconds: float = 30.0):
        self.folder, self.every_seconds = folder, every_seconds

    def start(self, state: TrainState) -> None:
        from raysparse.train.events import EventFile

        local = self.folder.is_local
        self.path = self.folder.local_path / TENSORBOARD if local else Path(tempfile.mkdtemp(prefix="raysparse-tb-"))
        self.sent = time.monotonic()
        self.events = EventFile(self.path, purge_step=state.step + 1 if state.step else None)

    def after_step(self, state: TrainState, record: StepRecord) -> None:
        if worth_logging(state, record):
            found = measurements(state, record)
            del found["step"]
            self.events.scalars(record.step, found)
        is_evaluation = bool(state.evaluations) and state.evaluations[-1].step == record.step
        if is_evaluation and not state.is_done and time.monotonic() - self.sent > self.every_seconds:
            self.events.flush()
            self._send()

    def _send(self) -> None:
        if not self.folder.is_local:
            for file in self.path.iterdir():
                self.folder.write(f"{TENSORBOARD}/{file.name}", file.read_bytes())
        self.sent = time.monotonic()

    def finish(self, state: TrainState) -> None:
        if state.is_done and state.evaluations:
            self._write_hparams(state)
        self.events.close()
        self._send()
        if not self.folder.is_local:
            shutil.rmtree(self.path)

    def _write_hparams(self, state: TrainState) -> None:
        from torch.utils.tensorboard.summary import hparams

        spec = state.spec
        settings = {
            "model": spec.model.name, "method": spec.sparsity.method, "density": spec.sparsity.density,
            "unique_tokens": spec.data.unique_tokens, "epochs": spec.data.epochs, "lr": spec.optimizer.lr,
            "weight_decay": spec.optimizer.weight_decay, "decay_per": spec.optimizer.decay_per,
            "dropout": spec.optimizer.dropout, "average": spec.optimizer.average, "seed": spec.seed,
            "active_weights": counts.parameters(spec.model, spec.sparsity).active,
            "flops_active": counts.flops(spec)[0],
        }  # fmt: skip
        last = state.evaluations[-1]
        results = {"final/validation_loss": last.loss}
        if last.average_loss is not None:
            results["final/average_validation_loss"] = last.average_loss
        for summary in hparams(settings, results):  # type: ignore[no-untyped-call]
            self.events.summary(summary)
        self.events.scalars(state.step, results)


class Checkpoint(Hook):
    """The whole state, every so many seconds, written behind the training; less often where that
    would take more than its share of the time. With 0 seconds, after every step, which waits for
    it; so does one for which `is_leaving` asks. `first` is done before each, and where that fails
    the checkpoint before stays. What is kept at the end of a run is `checkpoint.retire`'s to say.
    """

    def __init__(
        self,
        folder: Folder,
        every_seconds: float,
        is_leaving: Callable[[], bool] = lambda: False,
        first: Callable[[], bool] = lambda: True,
    ):
        self.every_seconds, self.behind = every_seconds, checkpoint.Behind(folder)
        self.is_leaving, self.first = is_leaving, first

    def start(self, state: TrainState) -> None:
        self.begun = time.monotonic()

    def after_step(self, state: TrainState, record: StepRecord) -> None:
        if state.is_done:
            return
        self.behind.after_step(record.seconds)
        if self.is_leaving():
            self._save(state)
            self.behind.wait()
        if self.behind.is_busy:
            return
        pause = max(self.every_seconds, self.behind.cost / checkpoint.SHARE) if self.every_seconds else 0.0
        if time.monotonic() - self.begun >= pause:
            self._save(state)
            if not self.every_seconds:
                self.behind.wait()

    def _save(self, state: TrainState) -> None:
        self.begun = time.monotonic()
        if self.first():
            self.behind.begin(state)

    def finish(self, state: TrainState) -> None:
        self.behind.wait()


class StopTrial(Exception):  # noqa: N818  (a wish, not an error)
    """Raised by a progress callback to end a trial early; the trial's status becomes `pruned` with
    this reason.
    """


class Progress(Hook):
    """Tell somebody how the run is doing: about once a second, and after every evaluation.

    The callback runs on rank 0 with a dictionary: step, steps, tokens, loss, lr, tokens_per_second,
    validation_loss (None between evaluations). A StopTrial that it raises ends the run after that
    step; of several ranks, after the next evaluation or multiple of `AGREE` steps, when all hear of
    it.
    """

    def __init__(self, callback: Callable[[dict[str, Any]], None], every_seconds: float = 1.0):
        self.callback, self.every_seconds = callback, every_seconds
        self.told = -math.inf
        self.wish: StopTrial | None = None

    def after_step(self, state: TrainState, record: StepRecord) -> None:
        news = measurements(state, record)
        is_evaluation = "validation_loss" in news
        if ranks.rank() == 0 and (is_evaluation or time.monotonic() - self.told > self.every_seconds):
            self.told = time.monotonic()
            try:
                self.callback({"validation_loss": None, "steps": state.spec.steps, **news})
            except StopTrial as wish:
                self.wish = wish
        is_asked = ranks.count() == 1 or is_evaluation or record.step % AGREE == 0
        if is_asked and not state.is_done and ranks.any_true(self.wish is not None, state.device):
            raise self.wish or StopTrial("another rank was told to stop")
