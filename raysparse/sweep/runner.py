"""Run a plan: what is finished is skipped, what was begun continues, the rest is run, and the table
is made.

Everything that can be refused is refused before anything is written or started - a folder of
another plan, a second driver, a corpus too small for the plan - and everything after that may be
killed at any moment. `run` is therefore also how a sweep is resumed, and running a finished plan
again costs a look into its folder.

Left out: how trials are run (`inline`, `fleet`) and by which rules (`broker`).
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from raysparse.data.order import check
from raysparse.data.store import prepare
from raysparse.files import Folder
from raysparse.reading import ReadingSpec
from raysparse.results import FINAL, Results
from raysparse.run_folder import ANSWER, JOURNAL, PLAN, TABLE, Reached, RunFolder
from raysparse.spec import DataSpec, TrialSpec
from raysparse.sweep import leftovers, lock
from raysparse.sweep.books import Job, known_of
from raysparse.sweep.budget import UNIT_NAMES, Work, load_work, save_work
from raysparse.sweep.plan import Plan
from raysparse.sweep.planners.base import Purse
from raysparse.sweep.settings import RayLostError, Settings
from raysparse.sweep.snapshot import Unseen, View
from raysparse.units import amount

RAY_STARTS = 4  # of a sweep's own Ray, in all; what ends it so often would do so again


@dataclass(frozen=True)
class Summary:
    """What a call of `run` did: `ran` trials have a new row. Those that ended badly are in
    `unfinished` (name: why) and are tried again by the next call; those in `unaffordable` wait for
    a larger budget.
    """

    folder: RunFolder
    trials: int
    ran: int
    finished: int
    unaffordable: int
    unfinished: dict[str, str]

    @property
    def is_complete(self) -> bool:
        return self.finished == self.trials


def run(
    plan: Plan, storage: Folder, name: str, settings: Settings | None = None, *, view: View | None = None,
    only: Collection[str] = (),
) -> Summary:  # fmt: skip
    """Run what is left of `plan` in the run folder `storage`/`name`, and write its
    `results.parquet`. only: ids of the trials to run and to tell of; none: all.

    Raises ValueError for whatever the user can cause, before anything is started. Ctrl-C raises
    KeyboardInterrupt; the next call continues.
    """
    settings, view = settings or Settings(), view or Unseen()
    if storage.is_local:
        storage = Folder(storage.local_path)  # workers do not share this process's directory
    if settings.min_workers > plan.placement.workers:
        raise ValueError(
            f"--min-workers is {settings.min_workers} but a trial has {plan.placement.workers} workers; "
            f"lower it, or raise --workers"
        )
    folder = RunFolder.named(storage, name)
    if plan.placement.device != "cpu" and not settings.address:
        from raysparse.train import device

        device.found(plan.placement.device)
    plan = plan.continued(folder)
    plan.check(folder)
    results = Results(folder)
    left, earlier = what_is_left(plan, folder, results, only), dict(results.written_at)
    if not left.chosen and not left.rows:
        raise _buys_nothing(plan, left.todo)
    if left.chosen or not folder.exists(PLAN):
        with lock.owned(folder.writable(), view.say):
            leftovers.end_all(folder.uri)  # they may still write what is read now
            lock.await_broker(folder)  # and so may one on a cluster
            left = what_is_left(plan.continued(folder), folder, results, only)  # another driver may just have ended
            for under in ("", JOURNAL):
                folder.discard_temporaries(under)
            if not settings.address:  # a cluster is looked at before anything is made
                prepare_tokens(left.plan, folder, view, results)
            try:
                _outlive(left, folder, results, settings, view, only)
            finally:
                if folder.exists(PLAN):
                    results.compact()
    elif results.is_behind or not folder.exists(TABLE):  # a driver was killed after its last row
        results.compact()
    return _summary(plan.continued(folder), folder, results, earlier, only)


@dataclass(frozen=True)
class Left:
    """What the folder says is still to be done: `rows` are the final ones, `todo` has none,
    `chosen` can be paid, in the order in which they are to run. `plan` holds what its planner
    proposed. `ledger` is the work that was written down, `work` what was spent: a driver that was
    killed may have written a checkpoint after its ledger, and the steps up to it were spent too.
    """

    plan: Plan
    rows: Mapping[str, dict[str, Any]]
    todo: Sequence[TrialSpec]
    chosen: Sequence[TrialSpec]
    ledger: Mapping[str, Work]
    work: Mapping[str, Work]


def what_is_left(plan: Plan, folder: RunFolder, results: Results, only: Collection[str] = ()) -> Left:
    rows = {row["trial_id"]: row for row in results.rows() if row["status"] in FINAL}
    todo = [spec for spec in plan.specs if spec.trial_id not in rows and (not only or spec.trial_id in only)]
    reached, ledger = folder.all_reached(todo), load_work(folder)
    known = {trial_id: ledger.get(trial_id, Work()) for trial_id in reached}
    later = {key: Work(at.step, known[key].seconds) for key, at in reached.items() if at.step > known[key].steps}
    work = {**ledger, **later}
    remaining = plan.budget.limit - spent(plan, work)
    chosen = plan.affordable({spec: reached.get(spec.trial_id, Reached()).start for spec in todo}, remaining)
    if not chosen:
        plan, chosen = first_proposals(plan, results, remaining)
    return Left(plan, rows, todo, chosen, ledger, work)


def _outlive(
    left: Left, folder: RunFolder, results: Results, settings: Settings, view: View, only: Collection[str]
) -> None:
    """Run what is left. When the Ray that was started for it is lost, start another one and go on
    from the folder, as the next call of `run` would.
    """
    for start in range(1, RAY_STARTS + 1):
        try:
            _execute(left, folder, results, settings, view)
            return
        except RayLostError as lost:
            if settings.address or start == RAY_STARTS:
                raise RayLostError(f"{lost}; what is finished is kept: run again to continue") from lost
            view.say(f"{lost}: starting another, {start} of {RAY_STARTS - 1}")
        if folder.exists(PLAN):
            left = what_is_left(left.plan.continued(folder), folder, results, only)
        if not left.chosen:
            return


def _buys_nothing(plan: Plan, todo: Sequence[TrialSpec]) -> ValueError:
    """Why a sweep that has no finished trial has none to run."""
    budget = f"the budget of {amount(plan.budget.limit)} {UNIT_NAMES[plan.budget.unit]}"
    if not todo:
        return ValueError(f"{budget} buys no trial that the planner could propose; raise --max-flops")
    least = amount(min(map(plan.price, todo)))
    return ValueError(f"{budget} buys none of the {len(todo)} trials: the cheapest costs {least}; raise --max-flops")


def first_proposals(plan: Plan, results: Results, remaining: float) -> tuple[Plan, list[TrialSpec]]:
    """What the planner proposes when nothing else is left, and the plan that holds it: asked before
    anything is started, so that a sweep that has nothing to do says so in a second.
    """
    if plan.planner is None:
        return plan, []
    rows = {row["trial_id"]: row for row in results.rows()}
    known = [known_of(spec, rows[spec.trial_id]) for spec in plan.specs if spec.trial_id in rows]
    asked = plan.planner.ask(known, Purse(remaining, plan.price))
    return plan.replace(specs=(*plan.specs, *asked)), list(asked)


def spent(plan: Plan, work: Mapping[str, Work]) -> float:
    """What some work on the trials of a plan costs, in the unit of its budget."""
    return math.fsum(plan.price_of(s, work[s.trial_id]) for s in plan.specs if s.trial_id in work)


def _execute(left: Left, folder: RunFolder, results: Results, settings: Settings, view: View) -> None:
    job = Job(left.plan, folder, left.chosen)
    if left.work != left.ledger:
        save_work(folder, left.work)

    def begin() -> None:
        """When nothing stands in its way any more, so that a sweep that could not start leaves no
        folder of its name.
        """
        if settings.address:
            prepare_tokens(left.plan, folder, view, results)
        folder.report.delete(ANSWER)  # before there are rows that it does not know
        left.plan.save(folder)
        specs = (spec for spec in left.plan.specs if spec.trial_id in left.rows)
        view.begin(left.plan, [(spec, left.rows[spec.trial_id]["validation_loss"]) for spec in specs])
        for line in left.plan.planner.links(folder) if left.plan.planner is not None else ():
            view.say(line)

    if settings.executor == "inline":
        from raysparse.sweep import inline

        begin()
        inline.run(job, view)
    else:
        from raysparse.sweep.ray import environment

        environment.apply(joins_a_cluster=bool(settings.address))
        try:
            from raysparse.sweep.ray import fleet
        except ImportError as error:
            raise ValueError(
                f"executor 'ray' needs what is missing here ({error}): pip install '.[sweep]' in the clone, or "
                f"--executor inline"
            ) from error
        fleet.run(job, settings, view, begin)


def _summary(
    plan: Plan, folder: RunFolder, results: Results, earlier: Mapping[str, float], only: Collection[str]
) -> Summary:
    """What was chosen is compared with what has a row: nothing is lost without a word. `earlier`
    says when the rows were written that were there before.
    """
    specs = [spec for spec in plan.specs if not only or spec.trial_id in only]
    rows = {row["trial_id"]: row for row in results.rows()}
    ran = sum(results.written_at.get(spec.trial_id) != earlier.get(spec.trial_id) for spec in specs)
    left = plan.budget.limit - spent(plan, load_work(folder))
    reached = folder.all_reached(spec for spec in specs if spec.trial_id not in rows)
    finished, unaffordable, unfinished = 0, 0, {}
    for spec in specs:
        row, name = rows.get(spec.trial_id), spec.name or spec.trial_id
        if row is not None and row["status"] in FINAL:
            finished += 1
        elif row is not None:
            unfinished[name] = f"{row['status']}: {row['reason']}"
        elif (
            plan.budget.admits(plan.price(spec))
            and plan.price(spec, reached.get(spec.trial_id, Reached()).start) <= left
        ):
            unfinished[name] = "has no row: it did not run to its end"
        else:
            unaffordable += 1
    return Summary(folder, len(specs), ran, finished, unaffordable, unfinished)


def prepare_tokens(plan: Plan, folder: RunFolder, view: View, results: Results) -> None:
    """Make or check the token stores of a plan. Raises ValueError when a corpus cannot give what
    the plan asks for, or is not the one that the folder's results were trained on.
    """
    rows = {row["trial_id"]: row["corpus_fingerprint"] for row in results.rows()}
    trained = {spec.data: rows[spec.trial_id] for spec in plan.specs if rows.get(spec.trial_id)}
    wanted = [spec.data for spec in plan.specs] + list(plan.planner.data() if plan.planner is not None else ())
    groups: dict[tuple[str, str, ReadingSpec], list[DataSpec]] = {}
    for data in wanted:
        groups.setdefault((data.corpus, data.tokenizer, data.reading), []).append(data)
    for (corpus, tokenizer, reading), sets in groups.items():
        with view.busy(f"preparing the tokens of corpus {corpus!r} with tokenizer {tokenizer!r}") as told:
            store = prepare(
                folder.tokens(corpus, tokenizer, reading),
                corpus,
                tokenizer,
                train_tokens=max(data.unique_tokens for data in sets),
                validation_tokens=max(data.validation_tokens for data in sets),
                reading=reading,
                told=told,
                known=next((trained[data] for data in sets if data in trained), ""),
            )
        for line in store.manifest.lines():
            view.say(f"corpus {corpus!r}: {line}")
        for spec in plan.specs:
            if (spec.data.corpus, spec.data.tokenizer, spec.data.reading) == (corpus, tokenizer, reading):
                check(store, spec)
