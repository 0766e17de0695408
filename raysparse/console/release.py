"""The verbs that take a trained model away: what they take and what they print.

MODEL is a trial, a checkpoint, a run folder (what it recommends) or an exported folder; the work is
done in `raysparse/release/`.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raysparse.console import arguments
from raysparse.record import require
from raysparse.run_folder import ENSEMBLES
from raysparse.units import amount, si

if TYPE_CHECKING:
    from raysparse.release.evaluate import Measured, Memorised
    from raysparse.release.opened import OpenedModel

MOST_GROUPS = 20  # printed; --json has all


def add_verbs(verbs: Any) -> None:
    _add_evaluate(verbs)
    _add_sample(verbs)
    _add_export(verbs)
    _add_ensemble(verbs)


def _add_model(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("model", metavar="MODEL", help="a trial, a checkpoint, a run folder, or an exported folder")
    verb.add_argument("--average", action="store_true", help="the moving average of the weights, where it was kept")


def _add_device(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--device", default="cpu", help="cpu or cuda (%(default)s)")


def _add_evaluate(verbs: Any) -> None:
    evaluate = verbs.add_parser("evaluate", help="loss, bits per byte and memorisation of a trained model")
    _add_model(evaluate)
    _add_device(evaluate)
    evaluate.add_argument(
        "--corpus", default="", help="other text than what was held out (a name, path, glob, hf:NAME)"
    )
    evaluate.add_argument("--documents", type=int, default=0, help="with --corpus: this many of them (all)")
    evaluate.add_argument("--text-field", default="text", help="with --corpus: field with the text (%(default)s)")
    evaluate.add_argument("--group-field", default="", help="with --corpus: documents of one value are a group")
    evaluate.add_argument("--encoding", default="", help="with --corpus: of its text (what files say, or UTF-8)")
    evaluate.add_argument("--replace-bad-bytes", action="store_true", help="with --corpus: read them as U+FFFD")
    evaluate.add_argument("--json", default="", metavar="FILE", help="write all of it, every document too")
    evaluate.add_argument("--task", default="", metavar="FOLDER", help="write the held-out text as a task of lm-eval")
    evaluate.set_defaults(command=command_evaluate)


def command_evaluate(args: argparse.Namespace) -> int:
    from analysis.data.files import write_json
    from raysparse.data.tally import Tally
    from raysparse.reading import ReadingSpec
    from raysparse.release import evaluate
    from raysparse.release.opened import open_model
    from raysparse.release.task_file import TASK, write_task

    opened = open_model(args.model, average=args.average, device=args.device)
    if args.documents and not args.corpus:
        raise ValueError("--documents is for --corpus; the held-out set of a trial is always read whole")
    print(opened.describe())
    if args.task:
        print(f"task {TASK} of lm-eval: {write_task(opened, Path(args.task))}")
    found: dict[str, Any] = {"model": opened.where.uri, "trial_id": opened.spec.trial_id, "average": opened.average}
    if args.corpus:
        if args.corpus == opened.spec.data.corpus:
            print("this is the corpus that it was trained on: its trained documents are in these numbers")
        fields = ("text_field", "group_field", "encoding", "replace_bad_bytes")
        reading, tally = ReadingSpec(**{name: getattr(args, name) for name in fields}), Tally()
        apart = evaluate.on_corpus(opened, args.corpus, args.documents, reading, tally)
        print("\n".join([*said(apart, "documents"), *tally.lines()]))
        found |= {"by_document": as_json(apart)}
    else:
        held, remembered = evaluate.own_text(opened)
        apart = evaluate.held_out_by_document(opened)
        print("\n".join([*said(held, "passages"), *of_row(opened, held), *each_alone(apart), *kept(remembered)]))
        found |= {"held_out": as_json(held), "by_document": as_json(apart), "memorisation": memory_as_json(remembered)}
    if args.json:
        write_json(Path(args.json), found)
    return 0


def _add_sample(verbs: Any) -> None:
    sample = verbs.add_parser("sample", help="text from a trained model")
    _add_model(sample)
    _add_device(sample)
    sample.add_argument("--prompt", default="", help="text to continue (the beginning of a document)")
    sample.add_argument("--most", type=int, default=256, metavar="TOKENS", help="at most this many (%(default)s)")
    sample.add_argument("--temperature", type=float, default=0.8, help="0 takes the likeliest token (%(default)s)")
    sample.add_argument("--top-k", type=int, default=0, help="draw from this many likeliest tokens (all)")
    sample.add_argument("--top-p", type=float, default=1.0, help="draw from the likeliest that have this share (all)")
    sample.add_argument("--seed", type=int, default=0, help="(%(default)s)")
    sample.add_argument("--no-cache", action="store_true", help="read everything again for each token")
    sample.set_defaults(command=command_sample)


def command_sample(args: argparse.Namespace) -> int:
    import numpy as np

    from raysparse.release import sample
    from raysparse.release.opened import open_model

    sampling = sample.SamplingSpec(temperature=args.temperature, top_k=args.top_k, top_p=args.top_p, seed=args.seed)
    require(args.most >= 1, "--most", args.most, "at least 1 token")
    opened = open_model(args.model, average=args.average, resident=True, device=args.device)
    prompt = sample.encoded_prompt(opened.tokenizer, args.prompt)
    spelling = sample.Spelling(opened.tokenizer, prompt)
    print(opened.describe(), file=sys.stderr)
    print(opened.tokenizer.decode(np.array(prompt, dtype=np.int64)), end="", flush=True)
    started, count = time.perf_counter(), 0
    for token in sample.generate(opened, prompt, sampling, args.most, cached=not args.no_cache):
        print(spelling.add(token), end="", flush=True)
        count += 1
    print(spelling.rest())
    seconds = time.perf_counter() - started
    end = "" if count == args.most else ", then it ended the document"
    print(f"{count} tokens{end}, {count / seconds:.0f} a second", file=sys.stderr)
    return 0


def _add_export(verbs: Any) -> None:
    export = verbs.add_parser("export", help="write a trained model as a folder that other tools open")
    _add_model(export)
    export.add_argument("folder", metavar="FOLDER", help="where to; it must not exist yet")
    export.add_argument("--dtype", choices=("fp32", "bf16"), default="", help="(fp32, or bf16 where weights are bf16)")
    export.add_argument("--overwrite", action="store_true", help="replace an export that is there")
    export.set_defaults(command=command_export)


def command_export(args: argparse.Namespace) -> int:
    from raysparse.release.card import engine_warnings
    from raysparse.release.export import checked_place, export
    from raysparse.release.opened import open_model

    checked_place(args.folder, args.overwrite)
    opened = open_model(args.model, average=args.average)
    print(opened.describe())
    for line in engine_warnings(opened.spec.model):
        print(f"not every engine will take it: {line}")
    dtype = args.dtype or ("bf16" if opened.spec.precision == "bf16" else "fp32")
    command = f"raysparse export {args.model} {args.folder} --dtype {dtype}" + " --average" * args.average
    folder = export(opened, args.folder, dtype=dtype, overwrite=args.overwrite, command=command)
    size = sum(file.stat().st_size for file in folder.iterdir())
    print(f"{folder}: LlamaForCausalLM, {dtype}, {si(size, 'B')}; the licence in its README.md is yours to say")
    return 0


def _add_ensemble(verbs: Any) -> None:
    ensemble = verbs.add_parser("ensemble", help="the seeds of a point as one model, their probabilities averaged")
    ensemble.add_argument("folder", metavar="RUN_FOLDER", help="every point of it with two seeds or more")
    ensemble.add_argument("--row", type=arguments.said, metavar="ID", help="only the point of this trial")
    ensemble.set_defaults(command=command_ensemble)


def command_ensemble(args: argparse.Namespace) -> int:
    from raysparse.release import ensemble
    from raysparse.run_folder import RunFolder

    run = RunFolder(args.folder)
    for rows in ensemble.points(run, args.row or ""):
        row = ensemble.measure(run, rows)
        ensemble.record(run, [row])
        single = row["member_validation_losses"]
        print(
            f"{row['name'] or row['replicate_of']}: {len(rows)} members {sum(single) / len(single):.4f} "
            f"[{min(single):.4f}, {max(single):.4f}], together {row['validation_loss']:.4f} nats per token "
            f"({row['gain']:.4f} below their mean), {amount(row['flops_active'])} active FLOPs [{row['ensemble_id']}]"
        )
    print(f"rows: {run.at(ENSEMBLES)}")
    return 0


def _error(value: float) -> str:
    """A standard error, which a single document or group does not tell."""
    return f"{value:.4f}" if math.isfinite(value) else "unknown"


def said(measured: Measured, unit: str) -> list[str]:
    """A measurement in lines, its groups too."""
    scores = measured.scores
    lines = [
        f"{measured.what}: {scores.loss:.4f} ± {_error(scores.error)} nats per token (perplexity "
        f"{measured.perplexity:.2f}), {measured.bits_per_byte:.4f} ± {_error(measured.bits_per_byte_error)} bits per "
        f"byte; {len(scores.nats)} {unit}, {int(scores.tokens.sum()):,} tokens"
    ]
    if not scores.has_groups:
        return lines
    groups = sorted(set(scores.groups))
    for group in groups[:MOST_GROUPS]:
        part = scores.of_group(group)
        lines.append(
            f"  {group}: {part.loss:.4f} ± {_error(part.error)} nats per token, {part.bits_per_byte:.4f} bits per byte"
        )
    if len(groups) > MOST_GROUPS:
        lines.append(f"  and {len(groups) - MOST_GROUPS} groups more, in --json")
    return lines


def of_row(opened: OpenedModel, held: Measured) -> list[str]:
    """How the number compares with the row's."""
    name = "average_validation_loss" if opened.average else "validation_loss"
    recorded = opened.row[name] if opened.row is not None else None
    if recorded is None:
        return ["  the trial has no row to compare with"]
    return [f"  its row says {recorded:.4f} (difference {held.scores.loss - recorded:.1e})"]


def each_alone(apart: Measured) -> list[str]:
    return [
        f"  each passage by itself, as other evaluators read: {apart.bits_per_byte:.4f} ± "
        f"{_error(apart.bits_per_byte_error)} bits per byte"
    ]


def kept(remembered: Memorised) -> list[str]:
    """Memorisation in lines."""
    trained = remembered.trained
    return [
        f"trained text: {trained.loss:.4f} ± {_error(trained.error)} nats per token, {remembered.gap:.4f} ± "
        f"{_error(remembered.gap_error)} below held-out text",
        f"continued exactly behind {remembered.prompt} tokens of a sequence (likeliest token each time):",
        *(
            f"  the next {length:>3}: {share:.1%} of trained, {unseen:.1%} of held-out sequences"
            for length, share, unseen in remembered.continued
        ),
    ]


def as_json(measured: Measured) -> dict[str, Any]:
    scores = measured.scores
    columns = zip(scores.nats, scores.tokens, scores.bytes, scores.groups, scores.begins, strict=True)
    return {
        "text": measured.what, "loss": scores.loss, "standard_error": scores.error, "perplexity": measured.perplexity,
        "bits_per_byte": measured.bits_per_byte, "bits_per_byte_standard_error": measured.bits_per_byte_error,
        "documents": [
            {"begins": begins, "nats": float(nats), "tokens": int(tokens), "bytes": int(size), "group": group}
            for nats, tokens, size, group, begins in columns
        ],
    }  # fmt: skip


def memory_as_json(remembered: Memorised) -> dict[str, Any]:
    continued = [dict(zip(("tokens", "trained", "held_out"), row, strict=True)) for row in remembered.continued]
    return {
        "trained_loss": remembered.trained.loss, "trained_standard_error": remembered.trained.error,
        "gap": remembered.gap, "gap_standard_error": remembered.gap_error, "prompt_tokens": remembered.prompt,
        "continued": continued,
    }  # fmt: skip
