"""One way to open a model, wherever it lies: a trial, its checkpoint, a run folder (what it
recommends, once that is trained), or a folder that `raysparse export` wrote.

All end in the same `Llama` over the same compact weights that training uses, so a loss measured
here is the loss of the row, and a sparse model takes a sparse model's memory (torch gives memory
for gradients and moments, but none of it is touched). Where a file is missing, the error names the
folder and what would make it.

Left out: weights of other origin; other tools open those.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch

from raysparse.data.store import TokenStore
from raysparse.data.tokenizer import ByteTokenizer, Tokenizer
from raysparse.files import Folder
from raysparse.model.llama import Llama
from raysparse.release import exported
from raysparse.run_folder import CHECKPOINT, JOURNAL, LATEST, MODEL_SUFFIX, PLAN, SPEC, TRIALS, RunFolder
from raysparse.sparsity.storage import SparseWeights
from raysparse.spec import TrialSpec
from raysparse.sweep.plan import load as load_plan
from raysparse.train import checkpoint
from raysparse.train.device import found as found_device
from raysparse.train.weights import load_weights

EXPECTED = (
    "a trial (runs/NAME/trials/ID), its checkpoint, a run folder whose recommendation is trained, or a folder "
    "written by `raysparse export`"
)


@dataclass
class OpenedModel:
    """A model ready to compute, and what is known of it.

    where: the folder it came from. step: optimizer steps behind these weights. row: the trial's row
    of the results, where it has ended. exported: the folder is an export, without a token store.
    """

    spec: TrialSpec
    model: Llama
    weights: SparseWeights
    where: Folder
    step: int
    row: dict[str, Any] | None
    average: bool
    exported: bool = False

    @property
    def is_whole(self) -> bool:
        """Whether the trial was trained to its end."""
        return self.step >= self.spec.steps

    @property
    def device(self) -> torch.device:
        return self.model.embedding.device

    @cached_property
    def store(self) -> TokenStore:
        """The tokens that it was trained on. Raises ValueError when they are not there."""
        data = self.spec.data
        if self.exported:
            raise ValueError(f"{self.where.uri} is an export and has no tokens of its own; name a --corpus")
        run = run_folder_of(self.where)
        found = TokenStore.open(run.tokens(data.corpus, data.tokenizer, data.reading))
        found.check(data, self.spec.model.vocab_size)
        return found

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """Raises ValueError when its file is missing."""
        if self.spec.data.tokenizer == "bytes":
            return ByteTokenizer()
        return exported.tokenizer(self.where, self.spec) if self.exported else self.store.tokenizer()

    def describe(self) -> str:
        """One line for people."""
        spec = self.spec
        kind = "dense" if spec.sparsity.density == 1.0 else f"density {spec.sparsity.density:.3g}"
        end = "" if self.is_whole else f", stopped at step {self.step} of {spec.steps}"
        average = ", averaged weights" if self.average else ""
        return (
            f"{spec.model.name or 'model'}, {kind}, {spec.data.epochs:.3g} epochs over {spec.data.unique_tokens:,} "
            f"tokens of {spec.data.corpus}{average}{end} [{spec.trial_id}]"
        )


def open_model(place: str, *, average: bool = False, resident: bool = False, device: str = "cpu") -> OpenedModel:
    """The model at `place`, for evaluation; `average` takes the moving average of its weights.

    resident: keep dense weights, which is faster where one token is read at a time. Raises
    ValueError naming what was expected when there is no model.
    """
    folder = located(place)
    if folder.exists(exported.ABOUT):
        return _open_exported(folder, average, resident, device)
    spec = TrialSpec.from_dict(folder.read_json(SPEC))
    model, weights = _empty(spec, resident, device)
    state = checkpoint.read(folder)
    load_weights(state, model, weights, average=average)
    journal = run_folder_of(folder).child(JOURNAL)
    found = journal.read_json_if_there(f"{spec.trial_id}.json")
    return OpenedModel(spec, model, weights, folder, int(state["step"]), found, average)


def _open_exported(folder: Folder, average: bool, resident: bool, device: str) -> OpenedModel:
    about = folder.read_json(exported.ABOUT)
    spec = TrialSpec.from_dict(about["spec"])
    if average and not about["average"]:
        raise ValueError(f"{folder.uri} holds the weights as they are, not their average; export with --average")
    model, weights = _empty(spec, resident, device)
    exported.load(folder, model, weights)
    return OpenedModel(spec, model, weights, folder, about["step"], about["row"], about["average"], exported=True)


def _empty(spec: TrialSpec, resident: bool, device: str) -> tuple[Llama, SparseWeights]:
    place = found_device(device)
    weights = SparseWeights(spec, device=place, resident=resident)
    return Llama(spec, weights).to(place).requires_grad_(False), weights


def located(place: str) -> Folder:
    """The folder of the trial or export that `place` means. Raises ValueError when it is none."""
    folder = Folder(place).absolute()
    if folder.name.endswith(".pt"):
        return _of_file(folder)
    if folder.exists(exported.ABOUT):
        return folder
    if folder.exists(LATEST.removeprefix(f"{CHECKPOINT}/")):
        folder = folder.parent
    if folder.exists(SPEC):
        if not folder.exists(LATEST):
            raise ValueError(f"trial {folder.uri} has no checkpoint; train it first")
        return folder
    if folder.exists(PLAN):
        return located(recommendation(RunFolder(folder.uri)).uri)
    raise ValueError(f"MODEL is {place!r}, which {_what_is_there(folder)}; expected {EXPECTED}")


def _what_is_there(folder: Folder) -> str:
    """Why a place that holds no model holds none."""
    if folder.is_local and folder.local_path.is_file():
        return "is a file"
    if folder.names():
        return "is of another kind"
    return "is an empty folder" if folder.is_local and folder.local_path.is_dir() else "does not exist"


def _of_file(file: Folder) -> Folder:
    """The trial of a checkpoint's file. Only the newest is whole, and only beside its trial."""
    trial = file.parent.parent
    name = file.name
    if not trial.exists(SPEC) or not trial.exists(LATEST) or trial.read_json(LATEST)["file"] != name:
        raise ValueError(f"MODEL is {file.uri!r}, which is not the checkpoint of a trial; expected {EXPECTED}")
    return trial


def recommendation(run: RunFolder) -> Folder:
    """The trial that a run folder recommends and that was trained: the first of `<name>-model`, or
    the only one of its own. Raises ValueError when there is none, or others have ended and it has
    not (`train --from --again` was stopped, say).
    """
    trained = RunFolder(run.parent.at(run.name + MODEL_SUFFIX))
    here = trained if trained.exists(PLAN) else run
    specs = load_plan(here).specs
    if not specs or (len(specs) > 1 and not here.name.endswith(MODEL_SUFFIX)):
        raise ValueError(
            f"what {run.uri} recommends is not trained yet: `raysparse train --from {shlex.quote(run.uri)}` does it; "
            f"or name one of its trials, {run.at(TRIALS, 'ID')}"
        )
    ended = {spec.trial_id for spec in specs if here.child(JOURNAL).exists(f"{spec.trial_id}.json")}
    first = specs[0].trial_id
    if ended and first not in ended:
        raise ValueError(
            f"what {run.uri} recommends is trial {first}, which has not ended; if it was stopped, run the `raysparse "
            f"train --from` that began it again; or name one that has, for example {here.trial(min(ended)).uri}"
        )
    return here.trial(first)


def run_folder_of(trial: Folder) -> RunFolder:
    """The run folder that a trial's folder lies in."""
    return RunFolder(trial.parent.parent.uri)
