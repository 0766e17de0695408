"""Small trained models in run folders of their own, as a sweep would leave them."""

from __future__ import annotations

from pathlib import Path

from raysparse.data.store import prepare
from raysparse.files import Folder
from raysparse.placement import Placement
from raysparse.results import Results, make_row
from raysparse.run_folder import RunFolder
from raysparse.spec import TrialSpec
from raysparse.sweep.plan import Plan
from raysparse.train import trial


def trained(storage: Path, name: str, *specs: TrialSpec) -> RunFolder:
    """A run folder whose trials are trained, in this process and without a sweep around them."""
    run = RunFolder.named(Folder(storage), name)
    for spec in specs:
        data = spec.data
        store = prepare(
            run.tokens(data.corpus, data.tokenizer), data.corpus, data.tokenizer,
            train_tokens=data.unique_tokens, validation_tokens=data.validation_tokens,
        )  # fmt: skip
        outcome = trial.run(spec, store, run.trial(spec.trial_id))
        Results(run).record(make_row(spec, Placement(), outcome))
    Plan(specs=specs).save(run)
    return run


def place(run: RunFolder, spec: TrialSpec) -> str:
    """MODEL of a trial, as a person types it."""
    return run.trial(spec.trial_id).uri
