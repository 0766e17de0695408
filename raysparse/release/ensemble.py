"""Several models as one: the probabilities of its members averaged, at their summed cost.

The members are the replicates of a point (trials that differ in the seed alone). Averaging is of
probabilities, not of logits, and the loss of a token needs only the members' losses of it: -log
mean_k exp(-l_k), which is never above their mean (Jensen). What it gains is what the members
disagree about. Published gains of ensembles are larger than that of any single setting (arXiv
2509.14786), and K members of density 1/K compute what one dense model does.

An ensemble is no trial, so its row is none of the results: `ensembles.json` of the run folder holds
a row of its own kind for each, and no law is fitted to it. Left out: distilling an ensemble into
one model, sampling from it, and members of different tokenizers.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from raysparse.record import nearest
from raysparse.release.evaluate import stream_losses
from raysparse.release.opened import OpenedModel, open_model
from raysparse.release.scores import Scores
from raysparse.results import Results
from raysparse.run_folder import ENSEMBLES, LATEST, RunFolder


def averaged(losses: Sequence[np.ndarray]) -> np.ndarray:
    """Losses of the members' averaged probabilities, nats, of any shape."""
    stacked = -np.stack(losses)
    highest = stacked.max(axis=0)
    found: np.ndarray = math.log(len(stacked)) - highest - np.log(np.exp(stacked - highest).sum(axis=0))
    return found


def points(run: RunFolder, wanted: str = "") -> list[list[dict[str, Any]]]:
    """The rows of each point of a run folder that has two completed replicates or more with a
    checkpoint, by seed; of the point of one trial where its id is `wanted`.

    Raises ValueError when there is none.
    """
    rows = [row for row in Results(run).rows() if row["status"] == "completed"]
    rows = [row for row in rows if run.trial(row["trial_id"]).exists(LATEST)]
    if wanted and wanted not in {row["trial_id"] for row in rows}:
        near = nearest(wanted, [row["trial_id"] for row in rows])
        raise ValueError(f"--row {wanted!r} is no completed trial of {run.uri} with a checkpoint{near}")
    found: dict[str, list[dict[str, Any]]] = {}
    for row in sorted(rows, key=lambda row: row["seed"]):
        found.setdefault(row["replicate_of"], []).append(row)
    several = [p for p in found.values() if len(p) > 1 and (not wanted or wanted in [r["trial_id"] for r in p])]
    if not several:
        of_one = f" from {wanted}" if wanted else ""
        raise ValueError(
            f"{run.uri} has no two completed trials that differ in the seed alone{of_one}; "
            f"train more seeds of a point (--seeds)"
        )
    return several


def measure(run: RunFolder, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The row of the ensemble of these trials."""
    losses = []
    for row in rows:  # one model in memory at a time
        member = open_model(run.trial(row["trial_id"]).uri)
        nats, by_passage = stream_losses(member)
        losses.append(nats)
    return _row(member, rows, by_passage(averaged(losses)))


def _row(member: OpenedModel, rows: Sequence[dict[str, Any]], scores: Scores) -> dict[str, Any]:
    """flops and tokens are those of all members; parameters are those that a prediction needs."""
    ids = [row["trial_id"] for row in rows]
    single = [row["validation_loss"] for row in rows]
    summed = ("flops_active", "flops_executed", "tokens", "seconds", "params_active", "params_active_non_embedding")
    return {
        "ensemble_id": hashlib.sha256(" ".join(sorted(ids)).encode()).hexdigest()[:12],
        "replicate_of": rows[0]["replicate_of"], "name": rows[0]["name"], "members": ids,
        "density": member.spec.sparsity.density, "validation_loss": scores.loss, "standard_error": scores.error,
        "validation_bits_per_byte": scores.loss / math.log(2) / member.store.bytes_per_token,
        "member_validation_losses": single, "gain": float(np.mean(single)) - scores.loss,
        **{key: sum(row[key] for row in rows) for key in summed},
    }  # fmt: skip


def record(run: RunFolder, rows: Sequence[dict[str, Any]]) -> None:
    """Add rows to `ensembles.json`; one of the same members replaces the earlier one."""
    kept = {row["ensemble_id"]: row for row in (run.read_json(ENSEMBLES) if run.exists(ENSEMBLES) else [])}
    kept |= {row["ensemble_id"]: row for row in rows}
    run.write_json(ENSEMBLES, list(kept.values()))
