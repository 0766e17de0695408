"""Tokenizers by name: "bytes", "bpe:VOCABULARY" (trained here), "hf:NAME_OR_FILE" (any
tokenizer.json).

A tokenizer is a pure function with a fingerprint. What it was trained on, where it was downloaded
from and which library made it do not matter after that; the store keeps its `tokenizer.json`, and a
store is only ever extended by a tokenizer with the same fingerprint. BPE is byte-level, so every
text survives the round trip and no token is unknown; it is trained on a fixed first part of the
training stream, so that it does not depend on how many tokens are asked for.

What ends a document is a token that the tokenizer declares as special: an ordinary entry of that
name is a word of texts. And no text makes it: some models find special tokens in text whatever they
are told, so where that happens the text is cut within the token's name and its parts are encoded
(`FastTokenizer.encode_batch`).

Left out: fetching (`hub`), chat templates, padding, truncation.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from raysparse.data import hub
from raysparse.record import nearest

if TYPE_CHECKING:
    from tokenizers import Tokenizer as HuggingFaceTokenizer

SEPARATOR = "<|separator|>"
# What published tokenizers call the token that ends a document, most common first.
END_OF_TEXT = (SEPARATOR, "<|endoftext|>", "</s>", "<|end_of_text|>", "<eos>", "<|im_end|>", "[SEP]",
               "<｜end▁of▁sentence｜>")  # fmt: skip
BYTE_VOCABULARY = 256
BPE_TRAINING_CHARACTERS = 32 * 2**20  # a few seconds on two cores; the vocabulary hardly changes with more

logger = logging.getLogger(__name__)


class Tokenizer(Protocol):
    """Text to token ids in [0, vocab_size); `separator` is put after every document and never comes
    from text.
    """

    vocab_size: int
    separator: int
    fingerprint: str

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        """One array of ids per text, without separators; unsigned integers that hold vocab_size."""
        ...

    def decode(self, tokens: np.ndarray) -> str:
        """The text of ids [n]; separators are left out."""
        ...

    def to_json(self) -> str | None:
        """tokenizer.json, or None when the name says it all."""
        ...


def token_dtype(vocab_size: int) -> type[np.unsignedinteger[Any]]:
    """The smallest type of a stored token: uint16 to 65,536 ids, uint32 above."""
    return np.uint16 if vocab_size <= 2**16 else np.uint32


class ByteTokenizer:
    """UTF-8 bytes, and one id more for the separator."""

    vocab_size = BYTE_VOCABULARY + 1
    separator = BYTE_VOCABULARY
    fingerprint = hashlib.sha256(b"bytes").hexdigest()

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        return [np.frombuffer(text.encode(), dtype=np.uint8).astype(np.uint16) for text in texts]

    def decode(self, tokens: np.ndarray) -> str:
        text: bytes = tokens[tokens != self.separator].astype(np.uint8).tobytes()
        return text.decode(errors="replace")

    def to_json(self) -> None:
        return None


class FastTokenizer:
    """A `tokenizers.Tokenizer`. vocab_size: at least that of the tokenizer; ids above the
    tokenizer's own never occur. separator: a token's name, the id that a store was made with, or
    "" for the first of END_OF_TEXT that is declared as special.

    Raises ValueError when the tokenizer declares no such token.
    """

    def __init__(self, inner: HuggingFaceTokenizer, name: str, vocab_size: int = 0, separator: str | int = ""):
        inner.no_truncation()
        inner.no_padding()
        inner.encode_special_tokens = True
        self.fingerprint = hashlib.sha256(inner.to_str().encode()).hexdigest()
        self._inner = inner
        self.separator = separator if isinstance(separator, int) else _declared(inner, name, separator)
        self.vocab_size = max(vocab_size, 1 + max(inner.get_vocab(with_added_tokens=True).values()))
        self._dtype = token_dtype(self.vocab_size)

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        encodings = self._inner.encode_batch_fast(list(texts), add_special_tokens=False)
        found = [np.array(encoding.ids, dtype=self._dtype) for encoding in encodings]
        for n, tokens in enumerate(found):
            if self.separator in tokens:
                found[n] = np.concatenate(self._parts(texts[n]))
        return found

    def _parts(self, text: str) -> list[np.ndarray]:
        """The ids of a text that the model reads the separator in: those of its parts, cut in the
        middle of the name, until none does. Raises ValueError when one character makes it.
        """
        encoding = self._inner.encode(text, add_special_tokens=False)
        places = [span for token, span in zip(encoding.ids, encoding.offsets, strict=True) if token == self.separator]
        if not places:
            return [np.array(encoding.ids, dtype=self._dtype)]
        start, stop = places[0]
        middle = (start + stop + 1) // 2
        if not 0 < middle < len(text):
            raise ValueError(
                f"the text {text[start:stop]!r} is the token that ends a document; name another one with "
                f"--separator-token"
            )
        return [*self._parts(text[:middle]), *self._parts(text[middle:])]

    def decode(self, tokens: np.ndarray) -> str:
        return str(self._inner.decode(tokens[tokens != self.separator].tolist(), skip_special_tokens=False))

    def to_json(self) -> str:
        return str(self._inner.to_str())


def _declared(inner: HuggingFaceTokenizer, name: str, wanted: str) -> int:
    """The id of the special token called `wanted`, or of the first of END_OF_TEXT that there is."""
    special = {token.content: n for n, token in inner.get_added_tokens_decoder().items() if token.special}
    for token in (wanted,) if wanted else END_OF_TEXT:
        if token in special:
            return special[token]
    declared = f"it declares {', '.join(special)}" if special else "it declares none"
    if wanted:
        ordinary = ", which is an ordinary token of it" if wanted in inner.get_vocab() else nearest(wanted, special)
        raise ValueError(f"tokenizer {name!r} has no special token {wanted!r}{ordinary}; {declared}")
    raise ValueError(
        f"tokenizer {name!r} has no token that ends a document; expected a special token called one of "
        f"{', '.join(END_OF_TEXT)}; {declared}; name one with --separator-token"
    )


def vocab_size(name: str, separator: str = "") -> int:
    """The vocabulary that a model needs for this tokenizer, before anything is trained; "hf:" names
    are loaded to find out. separator: the token that ends a document, where it is named.

    Raises ValueError for a name that is not a tokenizer's.
    """
    if name == "bytes":
        return ByteTokenizer.vocab_size
    kind, _, detail = name.partition(":")
    if kind == "hf" and detail:
        return FastTokenizer(hub.load(name, detail), name, separator=separator or hub.end_of_text(detail)).vocab_size
    if kind != "bpe":
        raise ValueError(f"tokenizer {name!r} is unknown; expected 'bytes', 'bpe:VOCABULARY' or 'hf:NAME_OR_FILE'")
    if not detail.isdecimal() or int(detail) <= BYTE_VOCABULARY:
        raise ValueError(
            f"tokenizer {name!r} needs a vocabulary of {BYTE_VOCABULARY + 1} or more, for example 'bpe:4096'"
        )
    return int(detail)


def make_tokenizer(name: str, training_texts: Iterable[str], separator: str = "") -> Tokenizer:
    """The tokenizer called `name`; only "bpe:" reads `training_texts`, and only their first part.

    Raises ValueError for an unknown name, a missing file, a tokenizer without a separator, and for
    a separator where the tokenizer has its own.
    """
    if separator and not name.startswith("hf:"):
        raise ValueError(f"--separator-token {separator!r} is for 'hf:' tokenizers; {name!r} has its own")
    if name == "bytes":
        return ByteTokenizer()
    if name.startswith("hf:"):
        place = name.removeprefix("hf:")
        return FastTokenizer(hub.load(name, place), name, separator=separator or hub.end_of_text(place))
    return train_bpe(name, vocab_size(name), training_texts)


def load_tokenizer(name: str, text: str, separator: int) -> Tokenizer:
    """A tokenizer from what `to_json` gave and the separator that a store was made with: no
    network, no training.
    """
    from tokenizers import Tokenizer as HuggingFaceTokenizer

    size = vocab_size(name) if name.startswith("bpe:") else 0
    return FastTokenizer(HuggingFaceTokenizer.from_str(text), name, size, separator)


def train_bpe(name: str, size: int, texts: Iterable[str]) -> FastTokenizer:
    """Byte-level BPE (the GPT-2 word pattern) of at most `size` tokens on the first
    BPE_TRAINING_CHARACTERS of `texts`.
    """
    from tokenizers import Tokenizer as HuggingFaceTokenizer
    from tokenizers import decoders, models, pre_tokenizers, trainers

    inner = HuggingFaceTokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=size, special_tokens=[SEPARATOR], initial_alphabet=alphabet, show_progress=False
    )
    inner.train_from_iterator(_first_characters(texts, BPE_TRAINING_CHARACTERS), trainer)
    if (learned := inner.get_vocab_size()) < size:
        logger.warning("tokenizer %r found only %d tokens to learn; the ids above them never occur", name, learned)
    return FastTokenizer(inner, name, size)


def _first_characters(texts: Iterable[str], characters: int) -> Iterator[str]:
    for text in texts:
        if characters <= 0:
            return
        yield text
        characters -= len(text)
