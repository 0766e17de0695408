"""Which column of a table means what, and how to say so when a name is wrong.

A sweep's own `results.parquet` needs no mapping. Any other table is described by `role=column`
pairs; a role or a column that does not exist is answered with the nearest one that does. The file
holds names only: reading and judging rows is `table`'s.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping

# role -> columns that are taken for it, in this order, when the user maps nothing.
DEFAULTS: dict[str, tuple[str, ...]] = {
    "loss": ("validation_loss", "val_loss", "loss"),
    "active": ("active", "active_params", "N_active", "params"),
    "density": ("density",),
    "tokens": ("tokens", "tokens_total"),
    "unique": ("unique_tokens", "tokens_unique"),
    "epochs": ("epochs",),
    "id": ("trial_id", "run", "name", "id"),
    "status": ("status",),
    "method": ("method",),
    "seed": ("seed",),
    "flops_active": ("flops_active",),
    "flops_executed": ("flops_executed",),
    "seconds": ("seconds",),
    "model": ("model",),
}
REQUIRED = ("loss", "active", "tokens")

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

# Columns whose values should not be mixed: in any rows, and in sparse ones.
MIXTURES = ("corpus", "tokenizer", "context", "validation_tokens", "precision")
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


def resolve(existing: list[str], mapping: Mapping[str, str]) -> dict[str, str]:
    """role -> column for every role that the table can fill.

    Raises ValueError for a mapped column that the table lacks and for a required role that nothing
    fills.
    """
    check_roles(mapping)
    found: dict[str, str] = {}
    for role, candidates in DEFAULTS.items():
        if role in mapping:
            if mapping[role] not in existing:
                raise ValueError(
                    f"the table has no column {mapping[role]!r} (mapped to {role!r})"
                    f"{nearest(mapping[role], existing)}; columns are {', '.join(existing)}"
                )
            found[role] = mapping[role]
        else:
            present = [column for column in candidates if column in existing]
            if present:
                found[role] = present[0]
    counted = any(set(columns) <= set(existing) for columns in COUNTS.values())
    missing = [role for role in REQUIRED if role not in found and not (role == "active" and counted)]
    if missing:
        role = missing[0]
        guess = next((hint for column in DEFAULTS[role] if (hint := nearest(column, existing))), "")
        raise ValueError(
            f"no column for {role!r} (looked for {', '.join(DEFAULTS[role])}){guess}; "
            f"map it, for example --columns {role}=NAME; columns are {', '.join(existing)}"
        )
    return found
