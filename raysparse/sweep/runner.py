"""Run a plan: what is finished is skipped, what was begun continues, the rest is run, and the table is made.

The decision that shaped this file: everything that can be refused is refused before anything is written or started - a folder of
another plan, a second driver, a corpus too small for the plan - and everything after that may be killed at any moment. `run` is
therefore also how a sweep is resumed, and running a finished plan again costs a look into its folder.

Left out: how trials are run (`inline`, `fleet`) and by which rules (`broker`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from rich.console import Console

from raysparse.data.store import prepare
from raysparse.files import Folder
from raysparse.record import Record, require, require_choice
from raysparse.results import FINAL, TABLE, Results
from raysparse.spec import TrialSpec
from raysparse.sweep import lock, ray_settings
from raysparse.sweep.broker import Job, checkpoint_step, token_folder
from raysparse.sweep.budget import load_work, price
from raysparse.sweep.plan import PLAN, Plan
from raysparse.sweep.progress import Display

Executor = Literal["ray", "inline"]


@dataclass(frozen=True, kw_only=True)
class Settings(Record):
    """Where and how a sweep runs: nothing here changes a result.

    address: of a Ray cluster to join ("auto", "ray://...", "host:port"); empty starts one on this machine.
    slots: trials at once; 0 takes as many as the cluster's CPUs (or GPUs) hold.
    gpus: of each worker, in (0, 1] for small models that share one; 0 trains on CPUs.
    """

    executor: Executor = "ray"
    address: str = ""
    slots: int = 0
    gpus: float = 0.0

    def __post_init__(self) -> None:
        require_choice("executor", self.executor, Executor)
        require(self.slots >= 0, "slots", self.slots, "0 (as many as fit) or more")
        require(0.0 <= self.gpus <= 1.0, "gpus", self.gpus, "0 (train on CPUs) or a share of one GPU per worker, at most 1")
        if self.executor == "inline" and self.address:
            raise ValueError(f"--address is {self.address!r} but the inline executor uses no cluster; leave one of them out")


@dataclass(frozen=True)
class Summary:
    """What a call of `run` did. Trials that ended badly are in `unfinished` (name: why) and are tried again by the next call;
    those in `unaffordable` wait for a larger budget."""

    folder: Folder
    trials: int
    ran: int
    finished: int
    unaffordable: int
    unfinished: dict[str, str]

    @property
    def is_complete(self) -> bool:
        return self.finished == self.trials


def run(plan: Plan, storage: Folder, name: str, settings: Settings | None = None, *, console: Console | None = None) -> Summary:
    """Run what is left of `plan` in the run folder `storage`/`name`, and write its `results.parquet`.

    Raises ValueError for whatever the user can cause, before anything is started. Ctrl-C raises KeyboardInterrupt; the next call
    continues.
    """
    settings, console = settings or Settings(), console or Console()
    storage = Folder(storage.local_path) if storage.is_local else storage  # workers do not share this process's directory
    folder = storage.child(name)
    plan.check(folder)
    results = Results(folder)
    rows = {row["trial_id"]: row for row in results.rows() if row["status"] in FINAL}
    todo = [spec for spec in plan.specs if spec.trial_id not in rows]
    chosen = affordable(plan, folder, todo)
    if chosen or not folder.exists(PLAN):
        before = [(spec, rows[spec.trial_id]["validation_loss"]) for spec in plan.specs if spec.trial_id in rows]
        with lock.owned(folder.writable()):
            prepare_tokens(plan, storage, console)
            plan.save(folder)
            try:
                _execute(Job(plan, storage, folder, chosen), settings, Display(plan, before, console=console))
            finally:
                results.compact()
    elif not folder.exists(TABLE):
        results.compact()
    return _summary(plan, folder, results, ran=len(chosen), unaffordable=len(todo) - len(chosen))


def affordable(plan: Plan, folder: Folder, todo: Sequence[TrialSpec]) -> list[TrialSpec]:
    """The trials that the budget still has room for, in the order in which they are to run."""
    work = load_work(folder)
    spent = math.fsum(price(s, plan.budget.unit, work[s.trial_id]) for s in plan.specs if s.trial_id in work)
    begun = {spec: checkpoint_step(folder.child("trials", spec.trial_id)) for spec in todo}
    return plan.affordable(begun, plan.budget.limit - spent)


def _execute(job: Job, settings: Settings, display: Display) -> None:
    if settings.executor == "inline":
        from raysparse.sweep import inline

        inline.run(job, display)
    else:
        ray_settings.apply(joins_a_cluster=bool(settings.address))
        try:
            from raysparse.sweep import fleet
        except ImportError as error:
            raise ValueError(
                f"executor 'ray' needs what is missing here ({error}): pip install 'raysparse[sweep]', or --executor inline"
            ) from error
        fleet.run(job, settings, display)


def _summary(plan: Plan, folder: Folder, results: Results, *, ran: int, unaffordable: int) -> Summary:
    rows = {row["trial_id"]: row for row in results.rows()}
    mine = [rows[trial_id] for trial_id in plan.trial_ids if trial_id in rows]
    unfinished = {row["name"] or row["trial_id"]: f"{row['status']}: {row['reason']}" for row in mine if row["status"] not in FINAL}
    return Summary(folder, len(plan.specs), ran, len(mine) - len(unfinished), unaffordable, unfinished)


def prepare_tokens(plan: Plan, storage: Folder, console: Console) -> None:
    """Make or check the token stores of a plan. Raises ValueError when a corpus cannot give what the plan asks for."""
    groups: dict[tuple[str, str], list[TrialSpec]] = {}
    for spec in plan.specs:
        groups.setdefault((spec.data.corpus, spec.data.tokenizer), []).append(spec)
    for (corpus, tokenizer), specs in groups.items():
        with console.status(f"preparing the tokens of corpus {corpus!r} with tokenizer {tokenizer!r}"):
            store = prepare(
                token_folder(storage, specs[0].data),
                corpus,
                tokenizer,
                train_tokens=max(spec.data.unique_tokens for spec in specs),
                validation_tokens=max(spec.data.validation_tokens for spec in specs),
            )
        for spec in specs:
            store.check(spec.data, spec.model.vocab_size)
