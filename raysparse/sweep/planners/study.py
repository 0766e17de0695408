"""The trials of a search as an Optuna study: rebuilt in memory for a sampler, mirrored into the run
folder for people.

The rows are the truth and the study is their image, so there is nothing to keep in step: a study
that was lost or torn is made again. Only a completed trial has a value; a pruned or failed one is
told as that. `optuna-dashboard` shows the mirror. Optuna's journal needs a local file, so beside an
object store it is made in a temporary place and copied.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.storages import BaseStorage, JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock
from optuna.trial import FrozenTrial, TrialState, create_trial

from raysparse import faults
from raysparse.run_folder import STUDY, RunFolder
from raysparse.sweep.planners.base import RUNNING, Known, Purse
from raysparse.sweep.planners.space import Axis, Space

STATES = {"completed": TrialState.COMPLETE, "pruned": TrialState.PRUNED, RUNNING: TrialState.RUNNING}
GENERATION = "NSGAIISampler:generation"  # where Optuna's own looks for it
ONE, TWO = ("loss",), ("loss", "cost")  # what is minimised


def distributions(space: Space) -> dict[str, BaseDistribution]:
    """Optuna's words for the free axes; ordered choices are told by their place, since Optuna's
    categories have no order.
    """
    return {axis.name: _distribution(axis) for axis in space.free}


def _distribution(axis: Axis) -> BaseDistribution:
    if axis.choices:
        ordered = axis.ordered()
        return IntDistribution(0, len(ordered) - 1) if axis.is_ordered else CategoricalDistribution(tuple(ordered))
    assert axis.low is not None
    assert axis.high is not None
    if axis.is_whole:
        return IntDistribution(int(axis.low), int(axis.high), log=axis.scale == "log")
    return FloatDistribution(axis.low, axis.high, log=axis.scale == "log")


def params_of(space: Space, values: Mapping[str, Any]) -> dict[str, Any] | None:
    """Optuna's parameters of a point; None for one outside the space."""
    if space.units(values) is None:
        return None
    params = {}
    for axis in space.free:
        value = values[axis.name]
        if axis.choices:
            params[axis.name] = axis.ordered().index(value) if axis.is_ordered else value
        else:
            assert axis.low is not None
            assert axis.high is not None
            params[axis.name] = min(max(value, axis.low), axis.high)
    return params


def values_of(space: Space, params: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of `params_of`; a value from a range is rounded as every one of the space is."""
    values = {axis.name: axis.choices[0] for axis in space.axes if not axis.is_free}
    for axis in space.free:
        value = params[axis.name]
        if axis.choices:
            values[axis.name] = axis.ordered()[value] if axis.is_ordered else value
        else:
            place = axis.inward(value)
            assert place is not None, f"{axis.name} {value} is outside its own distribution"
            values[axis.name] = axis.outward(place)
    return values


def frozen(
    space: Space,
    trial: Known,
    cost: float,
    largest: float | None,
    aims: Sequence[str],
    attributes: Mapping[str, Any] | None = None,
) -> FrozenTrial | None:
    """One trial in Optuna's words; None for one outside the space.

    cost: in the unit of the budget; above `largest` it violates the constraint of that name.
    attributes: what a sampler keeps with a trial.
    """
    params = params_of(space, space.values_of(trial.spec))
    if params is None:
        return None
    state = STATES.get(trial.status, TrialState.FAIL)
    measured = {"loss": trial.loss, "cost": cost}
    complete = state == TrialState.COMPLETE
    return create_trial(
        state=state,
        values=[float(measured[aim] or 0.0) for aim in aims] if complete else None,
        params=params,
        distributions=distributions(space),
        user_attrs={
            "trial_id": trial.spec.trial_id,
            "name": trial.spec.name,
            "seed": trial.spec.seed,
            "status": trial.status,
            "cost": cost,
        },
        system_attrs=dict(attributes or {}),
        constraints={} if largest is None else {"largest": cost / largest - 1.0},
    )


def in_memory(
    space: Space,
    known: Sequence[Known],
    purse: Purse,
    *,
    sampler: optuna.samplers.BaseSampler,
    largest: float | None = None,
    aims: Sequence[str] = ONE,
    population: int | None = None,
) -> optuna.Study:
    """A study of everything that is known, by trial id, so that the same knowledge is the same
    study.

    population: a genetic sampler breeds from the last whole generation, and reads from its trials
    which one they are of; a rebuilt study has none, so completed trials are counted off.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(directions=["minimize"] * len(aims), sampler=sampler)
    completed = 0
    for trial in sorted(known, key=lambda one: one.spec.trial_id):
        generation = {} if population is None else {GENERATION: completed // population}
        told = frozen(space, trial, purse.price(trial.spec), largest, aims, generation)
        if told is not None:
            study.add_trial(told)
            completed += told.state == TrialState.COMPLETE
    return study


def mirror(
    folder: RunFolder,
    space: Space,
    known: Sequence[Known],
    purse: Purse,
    *,
    largest: float | None = None,
    aims: Sequence[str] = ONE,
) -> int:
    """Bring the study in the run folder up to what is known; how many trials were added.

    Trials that still run are left to the next call. Told twice, nothing happens twice; a trial
    that failed and was then completed is there as both. Raises OSError when the folder cannot be
    written.
    """
    with tempfile.TemporaryDirectory() as scratch:
        path = folder.local_path / STUDY if folder.is_local else Path(scratch) / STUDY
        if not folder.is_local and folder.exists(STUDY):
            path.write_bytes(folder.read(STUDY))
        if path.exists() and not _is_whole(path):
            path.unlink()
        path.parent.mkdir(parents=True, exist_ok=True)
        added = _add(
            JournalStorage(JournalFileBackend(str(path), _Owned(str(path)))),
            folder.name,
            space,
            known,
            purse,
            largest,
            aims,
        )
        if added and not folder.is_local:
            folder.write(STUDY, path.read_bytes())
    return added


def _add(
    storage: BaseStorage,
    name: str,
    space: Space,
    known: Sequence[Known],
    purse: Purse,
    largest: float | None,
    aims: Sequence[str],
) -> int:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(
        storage=storage, study_name=name, directions=["minimize"] * len(aims), load_if_exists=True
    )
    there = {(t.user_attrs["trial_id"], t.user_attrs["status"]) for t in study.get_trials(deepcopy=False)}
    added = 0
    for trial in sorted(known, key=lambda one: one.spec.trial_id):
        if trial.status == RUNNING or (trial.spec.trial_id, trial.status) in there:
            continue
        told = frozen(space, trial, purse.price(trial.spec), largest, aims)
        if told is not None:
            study.add_trial(told)
            added += 1
            faults.point("study.mirrored")
    return added


class _Owned(JournalFileSymlinkLock):
    """No lock beside the study: who owns the run folder is its only writer, and one that was killed
    inside Optuna's own would make the next wait for half a minute.
    """

    def acquire(self) -> bool:
        faults.point("study.begun")
        return True

    def release(self) -> None:
        pass


def _is_whole(path: Path) -> bool:
    """Whether every line of a journal can be read: a writer that is killed leaves half of one."""
    text = path.read_text()
    try:
        for line in text.splitlines():
            json.loads(line)
    except json.JSONDecodeError:
        return False
    return not text or text.endswith("\n")


def dashboard(folder: RunFolder) -> str:
    """The command that shows the study."""
    where = folder.local_path / STUDY if folder.is_local else f"{folder.at(STUDY)} (copy it to a local file first)"
    return f"optuna-dashboard {where}"
