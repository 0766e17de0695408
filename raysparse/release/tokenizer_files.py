"""Our tokenizers as files that transformers loads, with the same ids.

Bytes become a BPE of 256 pieces and no merges behind the byte-level spelling of GPT-2, so id n is
byte n; a BPE that was trained here, or came from a hub, is written as the store keeps it. A
document begins and ends with the separator, so it is both `bos` and `eos`, and is never added by
itself. `split_special_tokens` has its name, where it stands in a text, read as text, as in
training.

Left out: chat templates; a base model has none.
"""

from __future__ import annotations

import json
from typing import Any

from raysparse.data.tokenizer import BYTE_VOCABULARY, SEPARATOR, Tokenizer
from raysparse.release.exported import INSTALL, TOKENIZER


def tokenizer_files(tokenizer: Tokenizer, context: int) -> dict[str, str]:
    """File name -> text. Raises ValueError where `tokenizers` is missing."""
    text = tokenizer.to_json() or _bytes()
    name = separator_name(text, tokenizer.separator)
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": context, "bos_token": name,
        "eos_token": name, "add_bos_token": False, "add_eos_token": False, "split_special_tokens": True,
        "clean_up_tokenization_spaces": False,
    }  # fmt: skip
    return {TOKENIZER: text, "tokenizer_config.json": json.dumps(config, indent=2) + "\n"}


def separator_name(text: str, separator: int) -> str:
    """What a tokenizer.json calls the id of the separator."""
    found: dict[str, Any] = json.loads(text)
    names = {token["id"]: token["content"] for token in found["added_tokens"]}
    return str(names[separator])


def _bytes() -> str:
    """tokenizer.json of the byte tokenizer."""
    try:
        from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    except ImportError as error:
        raise ValueError(f"tokenizer files need tokenizers ({error}): {INSTALL}") from error
    inner = Tokenizer(models.BPE(vocab={character: n for n, character in enumerate(spelled_bytes())}, merges=[]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    inner.decoder = decoders.ByteLevel()
    inner.add_special_tokens([AddedToken(SEPARATOR, special=True, normalized=False)])
    return str(inner.to_str())


def spelled_bytes() -> list[str]:
    """The character that byte-level spelling has for each byte: itself where it is printable in
    Latin-1, else the next from U+0100 on.
    """
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = iter(range(BYTE_VOCABULARY, 2 * BYTE_VOCABULARY))
    return [chr(n) if n in printable else chr(next(others)) for n in range(BYTE_VOCABULARY)]
