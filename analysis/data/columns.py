"""Which column of a table means what, and how to say so when a name is wrong.

A sweep's own `results.parquet` needs no mapping. In any other table the names that people use are
recognised: exactly as they stand here, or in other letters and marks (`Eval/Loss`,
`config.n_params`; single letters only as they stand). What is not recognised is described by
`role=column` pairs; a role or a column that does not exist is answered with the nearest one that
does. The file holds names only: reading and judging rows is `table`'s.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence

# Names that are a dense model's parameters, and of a sparse model's either all or the active ones.
EITHER = ("params", "parameters", "n_params", "num_params", "n_parameters", "num_parameters", "N", "model_params")

# role -> columns that are taken for it, in this order, when the user maps nothing.
DEFAULTS: dict[str, tuple[str, ...]] = {
    "loss": (
        "validation_loss",
        "val_loss",
        "eval_loss",
        "test_loss",
        "final_loss",
        "final_val_loss",
        "loss",
        "loss_true",
    ),
    "bits": ("bits", "bits_per_token", "val_bits", "loss_bits"),
    "perplexity": ("perplexity", "ppl", "val_ppl", "val_perplexity", "eval_ppl", "eval_perplexity"),
    "active": ("active", "active_params", "active_parameters", "N_active", "params_active", *EITHER),
    "total": ("total_params", "total_parameters", "N_total", "params_total", "N_dense_equiv"),
    "density": ("density", "density_active", "active_fraction"),
    "sparsity": ("sparsity",),
    "tokens": (
        "tokens",
        "tokens_total",
        "total_tokens",
        "train_tokens",
        "training_tokens",
        "n_tokens",
        "num_tokens",
        "D",
    ),
    "unique": ("unique_tokens", "tokens_unique", "n_unique_tokens", "dataset_tokens", "U"),
    "epochs": ("epochs", "n_epochs", "num_epochs"),
    "compute": ("flops_active", "C", "compute", "flops", "train_flops", "training_flops", "total_flops"),
    "id": ("trial_id", "run", "run_id", "name", "id"),
    "status": ("status", "State", "run_state"),
    "method": ("method",),
    "seed": ("seed",),
    "flops_active": ("flops_active",),
    "flops_executed": ("flops_executed",),
    "seconds": ("seconds",),
    "model": ("model",),
}
# A required role, and those from which it can be told instead.
REQUIRED: dict[str, tuple[tuple[str, ...], ...]] = {
    "loss": (("bits",), ("perplexity",)), "active": (("total",), ("compute", "tokens")), "tokens": (),
}  # fmt: skip

# The parameter count that the law calls N, for tables that store counts by kind (a sweep's
# results).
COUNTS: dict[str, tuple[str, ...]] = {
    "active_non_embedding": ("params_active_non_embedding",),
    "active": ("params_active",),
    "sparse_active": ("params_sparse_active",),
    "published": ("params_sparse_total", "params_norm", "params_head"),  # their sum times density
}

# Columns of a foreign table, beside the four coordinates, that make two rows different experiments
# rather than replicates ...
SPEC_COLUMNS = (
    "method",
    "model",
    "layout",
    "block",
    "corpus",
    "tokenizer",
    "lr_scaling",
    "precision",
    "context",
)
# ... and those that are settings where they vary: numbers that a training could have been given.
SETTING_COLUMNS = (
    "lr",
    "peak_lr",
    "learning_rate",
    "weight_decay",
    "wd",
    "dropout",
    "batch_sequences",
    "batch_size",
    "bs",
)

# Columns that say what was trained on or how text was counted: losses of two are two tables.
DATA = ("corpus", "corpus_fingerprint", "dataset", "data", "data_set", "dataset_name", "tokenizer", "source")
# Columns whose values should not be mixed: in any rows, and in sparse ones.
MIXTURES = ("context", "validation_tokens", "precision")
SPARSE_MIXTURES = ("lr_scaling", "layout", "block")

# Fields of a trial's spec that are no settings: coordinates, what follows from them, what is
# trained on, and names. Every other numeric field is one.
NOT_SETTINGS = frozenset(
    (
        "name",
        "seed",
        "evaluations",
        *(f"model.{name}" for name in ("name", "hidden", "intermediate", "layers", "heads", "vocab_size", "context")),
        *(f"data.{name}" for name in ("corpus", "tokenizer", "unique_tokens", "epochs", "validation_tokens")),
        *(f"data.reading.{name}" for name in ("text_field", "group_field", "encoding", "replace_bad_bytes")),
        *(f"data.reading.{name}" for name in ("separator_token", "validation", "validation_share", "near_duplicates")),
        *(f"sparsity.{name}" for name in ("method", "density", "layout", "block")),
    )
)
# Columns that say when, where and how fast a row was made: two listings of a run may differ there.
MEASURED = frozenset(
    (
        *(column for role in ("id", "seconds", "flops_active", "flops_executed") for column in DEFAULTS[role]),
        *("seconds_total", "tokens_per_second", "workers", "device", "versions", "git_commit", "bytes_measured"),
        *("host", "micro_batch", "recompute"),
    )
)


def parse_mapping(text: str) -> dict[str, str]:
    """`loss=val_loss,tokens=D` as a dictionary.

    Raises ValueError for a part without `=` and for a role that does not exist (the nearest is
    suggested).
    """
    mapping = {}
    for part in filter(None, (piece.strip() for piece in text.split(","))):
        role, equals, column = part.partition("=")
        if not equals or not column:
            raise ValueError(f"column mapping {part!r} is not of the form role=column, for example loss=val_loss")
        mapping[role.strip()] = column.strip()
    check_roles(mapping)
    return mapping


def check_roles(mapping: Mapping[str, str]) -> None:
    for role in mapping:
        if role not in DEFAULTS:
            raise ValueError(
                f"unknown role {role!r} in the column mapping{nearest(role, DEFAULTS)}; roles are {', '.join(DEFAULTS)}"
            )


def nearest(name: str, existing: Iterable[str]) -> str:
    """`; did you mean 'x'?` for the existing name closest to `name`, or nothing if none is
    close.
    """
    lowered = {str(item).lower(): str(item) for item in existing}
    close = difflib.get_close_matches(name.lower(), list(lowered), n=1, cutoff=0.5)
    return f"; did you mean {lowered[close[0]]!r}?" if close else ""


SIZED = re.compile(r"(?<=[a-z_ )\](])[ _]?[(\[]?([kKMBGT])[)\]]?$")  # params_B, tokens (M)
PREFIXES = ("config", "summary", "params", "hparams", "metrics")


def size_of(column: str) -> str:
    """The letter of a size at the end of a name: B of `active_params_B`; "" for none."""
    found = SIZED.search(column)
    return found[1] if found and len(column) > 2 and column[found.start()] in "_ ([" else ""


def plain(column: str) -> str:
    """A name without marks, case, size and the prefix that an export put before it."""
    bare = SIZED.sub("", column) if size_of(column) else column
    parts = [re.sub(r"[^a-z0-9]+", "_", part.lower()).strip("_") for part in re.split(r"[./]", bare)]
    return "_".join(parts[1:] if len(parts) > 1 and parts[0] in PREFIXES else parts)


def recognised(role: str, existing: Sequence[str]) -> str:
    """The column taken for a role, or ""."""
    for name in DEFAULTS[role]:
        if name in existing:
            return name
    known = {plain(column): column for column in reversed(existing)}
    return next((known[name.lower()] for name in DEFAULTS[role] if len(name) > 1 and name.lower() in known), "")


def alike(names: Iterable[str], existing: Sequence[str]) -> list[str]:
    """The columns that are one of `names`, as they stand or in other letters and marks, in the
    order of `names`.
    """
    found = [column for name in names for column in (name, *existing) if name in (column, plain(column))]
    return [column for column in dict.fromkeys(found) if column in existing]


def resolve(existing: list[str], mapping: Mapping[str, str]) -> dict[str, str]:
    """role -> column for every role that the table can fill.

    Raises ValueError for a mapped column that the table lacks and for a required role that nothing
    fills.
    """
    check_roles(mapping)
    found: dict[str, str] = {}
    for role in DEFAULTS:
        if role in mapping:
            if mapping[role] not in existing:
                raise ValueError(
                    f"the table has no column {mapping[role]!r} (mapped to {role!r})"
                    f"{nearest(mapping[role], existing)}; columns are {', '.join(existing)}"
                )
            found[role] = mapping[role]
        elif column := recognised(role, existing):
            found[role] = column
    counted = any(set(columns) <= set(existing) for columns in COUNTS.values())
    for role, others in REQUIRED.items():
        if role in found or (role == "active" and counted) or any(set(other) <= set(found) for other in others):
            continue
        instead = f", nor for {' or '.join(other[0] for other in others)}" if others else ""
        guess = next((hint for column in DEFAULTS[role] if (hint := nearest(column, existing))), "")
        raise ValueError(
            f"no column for {role!r} (looked for {', '.join(DEFAULTS[role])}){instead}{guess}; "
            f"map it, for example --columns {role}=NAME; columns are {', '.join(existing)}"
        )
    return found
