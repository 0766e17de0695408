"""The model card of an export, and what engines will not take of a shape.

A card is made from the spec and the row, so it says what was trained and measured and nothing else.
The licence is the user's to say: it depends on the text. Left out: intended use and risks, which a
program does not know.
"""

from __future__ import annotations

import json
from typing import Any

from raysparse import counts
from raysparse.release.exported import SPARSE
from raysparse.release.opened import OpenedModel
from raysparse.spec import ModelSpec
from raysparse.units import amount, count

SMALLEST_HEAD = 32  # what vLLM's attention kernels take
QUANTIZED_BLOCK = 32  # weights that llama.cpp's 4- and 8-bit formats quantize together, along a row
SUPER_BLOCK = 256  # the same of its K-quants


def engine_warnings(model: ModelSpec) -> list[str]:
    """What usual engines will not take of this shape, a line each; transformers takes all."""
    head, found = model.hidden // model.heads, []
    if head < SMALLEST_HEAD or head % 8:
        found.append(f"heads of {head}: vLLM wants at least {SMALLEST_HEAD}, in multiples of 8")
    sides = {key: getattr(model, key) for key in ("hidden", "intermediate")}
    for block, formats in ((QUANTIZED_BLOCK, "4- and 8-bit formats"), (SUPER_BLOCK, "K-quants")):
        odd = [f"{key} {size}" for key, size in sides.items() if size % block]
        if odd:
            found.append(f"{' and '.join(odd)}: llama.cpp's {formats} want multiples of {block}")
    return found


def card(opened: OpenedModel, dtype: str, command: str) -> str:
    """README.md of an export."""
    spec, row = opened.spec, opened.row
    warnings = [f"- {line}" for line in engine_warnings(spec.model)] or ["- nothing known"]
    lines = [
        "---", "library_name: transformers", "pipeline_tag: text-generation",
        "license:  # yours to say; it depends on the text that it was trained on", "tags: [raysparse]", "---", "",
        f"# {spec.model.name or 'model'}, {_density(opened)}", "",
        "A base model (`LlamaForCausalLM`), trained with raysparse. It continues text and follows no instructions.", "",
        *_table(_facts(opened, dtype)), "",
        *(_measured(row) if row is not None else ["The trial has no row of results."]), "",
        f"Made by `{command}` from `{opened.where.uri}`.", "", *_sparse(opened), "## What engines will not take", "",
        *warnings, "", "## The trial", "", "```json", json.dumps(spec.to_dict(), indent=1), "```", "",
    ]  # fmt: skip
    return "\n".join(lines)


def _density(opened: OpenedModel) -> str:
    rule = opened.spec.sparsity
    return "dense" if rule.density == 1.0 else f"density {rule.density:.3g} ({rule.method}, {rule.layout})"


def _facts(opened: OpenedModel, dtype: str) -> dict[str, str]:
    spec = opened.spec
    params = counts.parameters(spec.model, spec.sparsity)
    share = opened.step / spec.steps  # which may have been stopped before its end
    planned = "" if opened.is_whole else f" of {spec.data.epochs:.3g}"
    epochs, tokens = f"{spec.data.epochs * share:.3g}{planned} epochs", opened.step * spec.tokens_per_step
    return {
        "data": f"`{spec.data.corpus}`, tokenizer `{spec.data.tokenizer}`",
        **_parent(spec.parent),
        "tokens": f"{spec.data.unique_tokens:,} unique, {epochs}, {tokens:,} in all",
        "weights": f"{count(params.active)} active of {count(params.total)}, written as {dtype}",
        "density of the projections": _density(opened),
        "context": f"{spec.model.context} tokens",
        "steps": f"{opened.step} of {spec.steps}" + (", averaged weights" if opened.average else ""),
        "compute": f"{amount(counts.flops(spec)[0] * share)} active FLOPs",
        "learning rate, weight decay": f"{spec.optimizer.lr:.3g}, {spec.optimizer.weight_decay:.3g}",
        "trial": f"`{spec.trial_id}`, seed {spec.seed}",
    }


def _parent(parent: str) -> dict[str, str]:
    """What a model went on from (`TrialSpec.parent`), whose training is not in its own numbers."""
    if not parent:
        return {}
    trial, _, average = parent.partition(":")
    what = f"`{trial}`" + (", its averaged weights" if average else "")
    return {"continued from": f"{what}; its tokens and FLOPs are not counted here"}


def _table(facts: dict[str, str]) -> list[str]:
    return ["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in facts.items())]


def _measured(row: dict[str, Any]) -> list[str]:
    said = [f"Loss on held-out text: {row['validation_loss']:.4f} nats per token"] if row["validation_loss"] else []
    if row["validation_bits_per_byte"]:
        said.append(f"{row['validation_bits_per_byte']:.4f} bits per byte")
    if row["average_validation_loss"]:
        said.append(f"{row['average_validation_loss']:.4f} nats per token with averaged weights")
    return [", ".join(said) + "."] if said else [f"The trial ended as {row['status']}: {row['reason']}."]


def _sparse(opened: OpenedModel) -> list[str]:
    if opened.spec.sparsity.density == 1.0:
        return []
    return [
        "Inactive weights are zeros in `model.safetensors`, exactly. Which weights are active, and their values, is in",
        f"`{SPARSE}`: one bit a weight, row by row, the lowest bit first (`NAME.bitmask`), and `NAME.values`.", "",
    ]  # fmt: skip
