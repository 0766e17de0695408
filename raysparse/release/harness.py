"""A model adapter for lm-eval: any MODEL of ours without an export.

python -m raysparse.release.harness run --model raysparse --model_args path=runs/grid --tasks ...

is lm-eval's own command line with one model more. lm-eval (0.4.13) looks models up in a registry
that only its own modules fill and reads no entry points, so somebody has to import this file first;
from Python, importing it is enough. Documents are scored in windows that do not overlap, which is
what lm-eval's `hf` model does with an export, so the numbers are the same.

Left out: chat templates, and lm-eval's batch size (batches are made of windows of one length).
"""

from __future__ import annotations

import logging
from typing import Any

import lm_eval.models  # noqa: F401  (fills the registry with lm-eval's own)
import numpy as np
import torch
from lm_eval.api.model import TemplateLM
from lm_eval.api.registry import register_model

from raysparse.release.opened import open_model
from raysparse.release.sample import SamplingSpec, Spelling, generate
from raysparse.release.scores import score_documents, score_windows

MOST_TOKENS = 256  # generated, where a task does not say
LM_EVALS_DEVICE = "cuda:0"  # what its command line says where the user says nothing

log = logging.getLogger(__name__)


@register_model("raysparse")
class RaysparseLM(TemplateLM):  # type: ignore[misc]
    """path: MODEL, as `raysparse evaluate` takes it; average: its averaged weights."""

    def __init__(self, path: str, average: bool = False, device: str = "cpu", **lm_evals_own: Any):
        unknown = set(lm_evals_own) - {"batch_size", "max_batch_size"}
        if unknown:
            raise ValueError(f"--model_args {', '.join(sorted(unknown))} is unknown; expected path, average, device")
        super().__init__()
        if device == LM_EVALS_DEVICE and not torch.cuda.is_available():
            log.warning("torch finds no GPU here: computing on the CPU, not on %s", device)
            device = "cpu"
        self.opened = open_model(str(path), average=average, resident=True, device=device)

    @property
    def eot_token_id(self) -> int:
        return self.opened.tokenizer.separator

    @property
    def tokenizer_name(self) -> str:
        return f"raysparse-{self.opened.spec.trial_id}"

    @property
    def max_length(self) -> int:
        return self.opened.spec.model.context

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: Any) -> list[int]:
        return [int(token) for token in self.opened.tokenizer.encode_batch([string])[0]]

    def _loglikelihood_tokens(
        self, requests: list[tuple[tuple[str, str], list[int], list[int]]], **kwargs: Any
    ) -> list[tuple[float, bool]]:
        """What does not fit the context is cut off at the front."""
        pairs = []
        for _, context, continuation in requests:
            whole = np.array((context + continuation)[-(self.max_length + 1) :], dtype=np.int64)
            pairs.append((whole[:-1], whole[max(1, len(whole) - len(continuation)) :]))
        nats, right = score_windows(self.opened.model, pairs)
        return [(-float(loss), bool(hit)) for loss, hit in zip(nats, right, strict=True)]

    def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = False) -> list[float]:
        encoded = self.opened.tokenizer.encode_batch([request.args[0] for request in requests])
        nats = score_documents(self.opened.model, encoded, self.opened.tokenizer.separator, self.max_length)
        return [-float(loss) for loss in nats]

    def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
        return [self._until(*request.args) for request in requests]

    def _until(self, context: str, settings: dict[str, Any]) -> str:
        """Text behind a context, to the first of the texts that end it."""
        ends = settings.get("until") or []
        ends = [ends] if isinstance(ends, str) else ends
        temperature = settings.get("temperature", 1.0) if settings.get("do_sample") else 0.0
        sampling = SamplingSpec(
            temperature=temperature, top_k=settings.get("top_k", 0), top_p=settings.get("top_p", 1.0)
        )
        prompt = self.tok_encode(context) or [self.eot_token_id]
        spelling, text = Spelling(self.opened.tokenizer, prompt), ""
        for token in generate(self.opened, prompt, sampling, settings.get("max_gen_toks", MOST_TOKENS)):
            text += spelling.add(token)
            if any(end in text for end in ends):
                break
        else:
            text += spelling.rest()
        return text[: min((text.find(end) for end in ends if end in text), default=len(text))]


if __name__ == "__main__":
    from lm_eval.__main__ import cli_evaluate

    cli_evaluate()
