"""The results table: its schema, and a journal that makes "exactly one row per trial id" true
whatever dies when.

A finished trial is written as one small JSON file, `journal/<trial_id>.json`, whole or absent; the
table `results.parquet` is made from these files and can be remade at any time. So there is no
append to tear and nothing to repair: a trial is finished exactly when its journal file exists and
says so. Reading is one listing, the table, and the rows that are newer than it. A row holds every
field of the spec, exact counts, FLOPs active and executed, measured seconds and bytes, and the
losses.

Left out: reading the table (`analysis`), and deciding what to run (`sweep`).
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, get_args

from raysparse import compaction, counts, faults, memory
from raysparse.files import Stamp
from raysparse.placement import Placement
from raysparse.record import leaves, many, require_choice
from raysparse.run_folder import JOURNAL
from raysparse.spec import TrialSpec

if TYPE_CHECKING:
    import pyarrow as pa

    from raysparse.files import Folder

Status = Literal["completed", "pruned", "diverged", "out_of_memory", "failed", "preempted"]

# Journal rows with these statuses are final; the others are tried again by the next run of the
# sweep.
FINAL: frozenset[str] = frozenset({"completed", "pruned", "diverged"})


@dataclass(frozen=True)
class Evaluation:
    """Validation loss after `step` steps and `tokens` training tokens, nats per token; with the
    averaged weights too where a trial keeps them.
    """

    step: int
    tokens: int
    loss: float
    average_loss: float | None = None


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a trial measured. Losses are nats per token, token-weighted; None where the run ended
    before there was one.
    """

    status: Status
    reason: str = ""
    train_loss: float | None = None  # mean over the last tenth of the steps
    validation_loss: float | None = None  # at the end of the run
    validation_bits_per_byte: float | None = None
    evaluations: tuple[Evaluation, ...] = ()
    steps: int = 0
    tokens: int = 0  # really trained
    seconds: float = 0.0  # training steps only, without evaluation, checkpoints and start-up
    seconds_total: float = 0.0
    bytes_measured: dict[str, int] = field(default_factory=dict)  # by kind; "peak" where the device tells
    micro_batch: int = 0  # sequences in a forward pass of a worker, as chosen; 0 where it did not come to that
    recompute: str = ""  # what was made again in backward passes, as chosen
    device: str = ""
    versions: dict[str, str] = field(default_factory=dict)
    git_commit: str = ""
    host: str = ""  # the machine of the first worker
    corpus_fingerprint: str = ""

    def __post_init__(self) -> None:
        require_choice("status", self.status, Status)
        fits = (
            (self.validation_loss is not None and not self.reason) if self.status == "completed" else bool(self.reason)
        )
        if not fits:
            raise ValueError(
                f"a completed trial has a validation loss and no reason, any other a reason; got status "
                f"{self.status!r}, loss {self.validation_loss!r}, reason {self.reason!r}"
            )

    def to_dict(self) -> dict[str, Any]:
        return {**vars(self), "evaluations": [{**vars(e)} for e in self.evaluations]}


# What a row holds beside the spec, in the order of the table: column -> Arrow type.
MEASURED: dict[str, str] = {
    "tokens": "int64", "steps": "int64",
    "params_total": "int64", "params_embedding": "int64", "params_head": "int64", "params_norm": "int64",
    "params_sparse_total": "int64", "params_sparse_active": "int64", "params_active": "int64",
    "params_active_non_embedding": "int64",
    "flops_active": "float64", "flops_executed": "float64", "seconds": "float64", "seconds_total": "float64",
    "tokens_per_second": "float64",
    "train_loss": "float64", "validation_loss": "float64", "validation_bits_per_byte": "float64",
    "best_validation_loss": "float64", "best_step": "int64",
    "average_validation_loss": "float64", "best_average_validation_loss": "float64", "best_average_step": "int64",
    "evaluations": "evaluations",
    "bytes_predicted": "json", "bytes_measured": "json",
    "workers": "int64", "micro_batch": "int64", "recompute": "string",
    "device": "string", "versions": "json", "git_commit": "string", "host": "string",
    "corpus_fingerprint": "string",
    "spec": "json",
}  # fmt: skip
IDENTITY = ("trial_id", "replicate_of", "name", "status", "reason")
COMPACT_EVERY = 256  # rows written: what a reader at most reads one by one
# A field's column is named like the field; these two names are taken by something else.
RENAMED = {"model.name": "model", "evaluations": "planned_evaluations"}


_COLUMNS: dict[type, dict[str, tuple[str, Any]]] = {}  # a row asks for them twice


def spec_columns(kind: type[TrialSpec] = TrialSpec) -> dict[str, tuple[str, Any]]:
    """column -> (dotted field, type) of every field of a spec; made from the record, so a field
    that is added there is a column here. `name` stands in every row already.
    """
    if kind not in _COLUMNS:
        fields = {path: field for path, field in leaves(kind) if path != "name"}
        _COLUMNS[kind] = {RENAMED.get(path, path.rpartition(".")[2]): (path, field) for path, field in fields.items()}
    return _COLUMNS[kind]


def schema(kind: type[TrialSpec] = TrialSpec) -> pa.Schema:
    """The table's schema. A column made from the spec says so in its metadata: `field` is its
    dotted name, by which analysis knows a setting from a measurement.
    """
    import pyarrow as pa

    loss = pa.float64()
    evaluation = pa.struct([("step", pa.int64()), ("tokens", pa.int64()), ("loss", loss), ("average_loss", loss)])
    types = {
        "string": pa.string(),
        "json": pa.string(),
        "int64": pa.int64(),
        "float64": pa.float64(),
        "evaluations": pa.list_(evaluation),
    }
    native = {int: pa.int64(), float: pa.float64(), bool: pa.bool_()}
    return pa.schema(
        [pa.field(name, pa.string()) for name in IDENTITY]
        + [
            pa.field(name, native.get(field, pa.string()), metadata={"field": path})
            for name, (path, field) in spec_columns(kind).items()
        ]
        + [pa.field(name, types[kind]) for name, kind in MEASURED.items()]
    )


def make_row(spec: TrialSpec, placement: Placement, outcome: Outcome) -> dict[str, Any]:
    """The row of a trial. FLOPs and tokens are those really spent, so a trial that stopped early
    costs what it used.
    """
    params = counts.parameters(spec.model, spec.sparsity)
    per_token = counts.flops_per_token(spec.model, spec.sparsity, precision=spec.precision, device=placement.device)
    used = placement.replace(
        micro_batch=outcome.micro_batch or placement.micro_batch, recompute=outcome.recompute or placement.recompute
    )
    found = outcome.to_dict()
    measured: dict[str, Any] = {
        **found,
        **_of_evaluations(found["evaluations"]),
        "workers": placement.workers,
        "params_total": params.total, "params_embedding": params.embedding, "params_head": params.head,
        "params_norm": params.norm, "params_sparse_total": params.sparse_total,
        "params_sparse_active": params.sparse_active, "params_active": params.active,
        "params_active_non_embedding": params.active_non_embedding,
        "flops_active": per_token[0] * outcome.tokens, "flops_executed": per_token[1] * outcome.tokens,
        "tokens_per_second": outcome.tokens / outcome.seconds if outcome.seconds else None,
        "bytes_predicted": dataclasses.asdict(memory.predicted(spec, used)),
        "spec": spec.to_dict(),
    }  # fmt: skip
    row = {**_described(spec), "status": outcome.status, "reason": outcome.reason}
    for name, kind in MEASURED.items():
        row[name] = json.dumps(measured[name], sort_keys=True) if kind == "json" else measured[name]
    return row


def _described(spec: TrialSpec) -> dict[str, Any]:
    """What a row says of the spec, the result aside."""
    known = {"trial_id": spec.trial_id, "replicate_of": spec.replicate_of, "name": spec.name}
    return known | {column: spec.at(path) for column, (path, _) in spec_columns(type(spec)).items()}


def _of_evaluations(evaluations: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The best evaluation and its step, of the weights as they are and of their average, whose last
    loss is here too.
    """
    averaged = [e for e in evaluations if e.get("average_loss") is not None]
    best = min(evaluations, key=lambda e: e["loss"], default=None)
    best_averaged = min(averaged, key=lambda e: e["average_loss"], default=None)
    return {
        "best_validation_loss": best and best["loss"],
        "best_step": best and best["step"],
        "average_validation_loss": averaged[-1]["average_loss"] if averaged else None,
        "best_average_validation_loss": best_averaged and best_averaged["average_loss"],
        "best_average_step": best_averaged and best_averaged["step"],
    }


def completed(row: dict[str, Any]) -> dict[str, Any]:
    """A row of the journal with every column: an older one lacks fields that were added since,
    which its own spec tells at their defaults.
    """
    if set(MEASURED) <= set(row) and set(spec_columns()) <= set(row):
        return row
    empty: dict[str, Any] = dict.fromkeys(MEASURED)
    found = _of_evaluations(row["evaluations"] or ())
    return empty | found | _described(TrialSpec.from_dict(json.loads(row["spec"]))) | row


class Results:
    """The results of one run folder. Any number of processes may read; rows of different trials may
    be written at once, and one process at a time compacts.

    What was read once is kept: asking again costs a listing of the journal and the rows that are
    new since.
    """

    def __init__(self, folder: Folder):
        self.folder = folder
        self._rows: dict[str, tuple[Stamp, dict[str, Any]]] = {}  # by file name
        self._written: dict[str, bytes] = {}  # by file name: rows of ours that no listing has shown yet
        self._asked = False
        self.is_behind = False  # results.parquet lacks rows, or versions of them, that were seen

    def record(self, row: dict[str, Any]) -> None:
        """Write a trial's row; a later row of the same trial (a retry) replaces the earlier one."""
        missing = sorted({*IDENTITY, *spec_columns(), *MEASURED} - set(row))
        if missing or not row.get("trial_id"):
            raise ValueError(f"a results row lacks {', '.join(missing) or 'trial_id'}; build it with results.make_row")
        name = f"{row['trial_id']}.json"
        data = json.dumps(row, sort_keys=True).encode()
        self.folder.write(f"{JOURNAL}/{name}", data)
        faults.point("journal.written")
        self._written[name] = data
        if len(self._written) >= COMPACT_EVERY:
            self.compact()

    def rows(self) -> list[dict[str, Any]]:
        """All rows, by trial id."""
        with many(), ThreadPoolExecutor(1) as pool:  # an object store answers both while it would answer one
            table = None if self._asked else pool.submit(compaction.read, self.folder, schema())
            stamps = {name: at for name, at in sorted(self.folder.stamps(JOURNAL).items()) if name.endswith(".json")}
        if table is not None:
            self._asked, self._rows = True, table.result()
        known = {name: self._rows[name] for name, at in stamps.items() if self._rows.get(name, (None,))[0] == at}
        for name, data in self._written.items():
            if name in stamps and name not in known and stamps[name].size == len(data):
                known[name] = stamps[name], json.loads(data)
        self._written.clear()
        new = [name for name in stamps if name not in known]
        paths = [f"{JOURNAL}/{name}" for name in new]
        for name, path, data in zip(new, paths, self.folder.each(self.folder.read, paths), strict=True):
            row = completed(self.folder.parsed(path, data))
            self.is_behind = self.is_behind or self._rows.get(name, (None, None))[1] != row
            known[name] = stamps[name], row
        self._rows = {name: known[name] for name in stamps}
        return [row for _, row in self._rows.values()]

    @property
    def written_at(self) -> dict[str, float]:
        """When the rows that were read last were written (seconds since 1970), by trial id."""
        return {name.removesuffix(".json"): at.written_at / 1e9 for name, (at, _) in self._rows.items()}

    def finished(self) -> set[str]:
        """Ids of the trials that are not to be run again."""
        return {row["trial_id"] for row in self.rows() if row["status"] in FINAL}

    def table(self) -> pa.Table:
        import pyarrow as pa

        return pa.Table.from_pylist(self.rows(), schema=schema())

    def compact(self) -> pa.Table:
        """Write `results.parquet` from the journal and return the table."""
        table = self.table()
        compaction.write(self.folder, table, {name: at for name, (at, _) in self._rows.items()})
        self.is_behind = False
        faults.point("table.made")
        return table


def statuses() -> tuple[str, ...]:
    return get_args(Status)
