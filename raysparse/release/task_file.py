"""The held-out text of a model as a task of lm-eval: bits per byte, document by document.

Two files: the text as JSON lines, and the task that names it. With `--include_path FOLDER` lm-eval
finds it under the name below, for our adapter (`harness`), for an export through its own `hf`
model, and for any other model, so that numbers on a user's own documents compare. Left out:
few-shot prompts, which a loss has none of.
"""

from __future__ import annotations

import json
from pathlib import Path

from raysparse.files import write_file_atomically
from raysparse.release.documents import held_out_passages
from raysparse.release.opened import OpenedModel

TASK = "raysparse_held_out"
TEXT = "held_out.jsonl"

# JSON is YAML, so nothing needs a YAML library.
_DEFINITION = {
    "task": TASK, "dataset_path": "json", "test_split": "test", "output_type": "loglikelihood_rolling",
    "doc_to_text": "", "doc_to_target": "text",
    "metric_list": [{"metric": name} for name in ("bits_per_byte", "byte_perplexity", "word_perplexity")],
    "metadata": {"version": 1.0},
}  # fmt: skip


def write_task(opened: OpenedModel, folder: Path) -> Path:
    """Write both files into a folder and return that of the task. Raises ValueError where the model
    has no tokens of its own.
    """
    documents = held_out_passages(opened.store, opened.spec.data.validation_tokens)
    lines = "".join(json.dumps({"text": document.text}) + "\n" for document in documents)
    text, task = folder.absolute() / TEXT, folder.absolute() / f"{TASK}.yaml"
    write_file_atomically(text, lines.encode())
    definition = {**_DEFINITION, "dataset_kwargs": {"data_files": {"test": str(text)}}}
    write_file_atomically(task, (json.dumps(definition, indent=2) + "\n").encode())
    return task
