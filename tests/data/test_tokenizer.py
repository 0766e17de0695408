"""Tokenizers: text survives, ids stay in the vocabulary, training repeats itself, and a separator
never comes from text.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
from corpora import prose
from hypothesis import given, settings
from hypothesis import strategies as st

from raysparse.data import tokenizer as tokenizers
from raysparse.data.tokenizer import SEPARATOR, Tokenizer, load_tokenizer, make_tokenizer, token_dtype, vocab_size

TRAINING = prose(100)
MADE: dict[str, Tokenizer] = {name: make_tokenizer(name, TRAINING) for name in ("bytes", "bpe:300")}


@pytest.mark.parametrize("name", MADE)
@given(text=st.text(st.characters(codec="utf-8")))
@settings(max_examples=100, deadline=None)
def test_conformance(name: str, text: str) -> None:
    """Any text comes back, separators around it leave no trace, and ids are below vocab_size and
    never the separator.
    """
    tokenizer = MADE[name]
    (tokens,) = tokenizer.encode_batch([text])
    assert tokens.dtype == token_dtype(tokenizer.vocab_size)
    assert ((tokens < tokenizer.vocab_size) & (tokens != tokenizer.separator)).all()
    assert tokenizer.decode(np.append(tokens, tokenizer.separator)) == text


@pytest.mark.parametrize("name", MADE)
def test_the_separator_written_in_a_document_is_text(name: str) -> None:
    (tokens,) = MADE[name].encode_batch([f"before {SEPARATOR} after"])
    assert MADE[name].separator not in tokens
    assert MADE[name].decode(tokens) == f"before {SEPARATOR} after"


@pytest.mark.parametrize("name", MADE)
def test_vocabulary_is_known_before_training(name: str) -> None:
    assert vocab_size(name) == MADE[name].vocab_size


def test_bpe_survives_storage() -> None:
    made = MADE["bpe:300"]
    text = made.to_json()
    assert text is not None
    again = load_tokenizer("bpe:300", text, made.separator)
    assert (again.vocab_size, again.separator, again.fingerprint) == (made.vocab_size, made.separator, made.fingerprint)
    assert np.array_equal(again.encode_batch(TRAINING[:1])[0], made.encode_batch(TRAINING[:1])[0])
    assert hashlib.sha256(text.encode()).hexdigest() == made.fingerprint


def test_bpe_training_repeats_itself_and_depends_on_the_text() -> None:
    assert make_tokenizer("bpe:300", TRAINING).fingerprint == MADE["bpe:300"].fingerprint
    assert make_tokenizer("bpe:300", ["other words"]).fingerprint != MADE["bpe:300"].fingerprint


def test_bpe_reads_only_the_first_part_of_the_text(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a larger store of the same stream has the same tokenizer."""
    monkeypatch.setattr(tokenizers, "BPE_TRAINING_CHARACTERS", sum(map(len, TRAINING)))
    assert make_tokenizer("bpe:300", [*TRAINING, *prose(50, seed=7)]).fingerprint == MADE["bpe:300"].fingerprint


def test_a_vocabulary_larger_than_the_text_supports_is_said(caplog: pytest.LogCaptureFixture) -> None:
    assert make_tokenizer("bpe:5000", ["short"]).vocab_size == 5000
    assert "found only" in caplog.text


def test_any_tokenizer_file(tmp_path: Path) -> None:
    text = MADE["bpe:300"].to_json()
    assert text is not None
    (tmp_path / "tokenizer.json").write_text(text)
    loaded = make_tokenizer(f"hf:{tmp_path / 'tokenizer.json'}", [])
    assert loaded.vocab_size == vocab_size(f"hf:{tmp_path / 'tokenizer.json'}") == 300
    assert loaded.encode_batch(["sparse"])[0].tolist() == MADE["bpe:300"].encode_batch(["sparse"])[0].tolist()


def test_a_tokenizer_without_a_separator_is_refused(tmp_path: Path) -> None:
    from tokenizers import Tokenizer as HuggingFaceTokenizer
    from tokenizers import models

    HuggingFaceTokenizer(models.BPE({"a": 0, "b": 1}, [])).save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(
        ValueError,
        match=r"has no token that ends a document; expected a special token called one of.*; it declares none",
    ):
        make_tokenizer(f"hf:{tmp_path / 'tokenizer.json'}", [])


@pytest.mark.parametrize("name", ["words", "bpe", "bpe:", "bpe:256", "bpe:-1", "bpe:many", "hf:"])
def test_unknown_names(name: str) -> None:
    with pytest.raises(ValueError, match=f"tokenizer '{name}'.*(expected|needs)"):
        vocab_size(name)
    with pytest.raises(ValueError, match=f"tokenizer '{name}'.*(expected|needs)"):
        make_tokenizer(name, TRAINING)


def test_a_damaged_tokenizer_file(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(ValueError, match=r"tokenizer 'hf:.*' cannot be loaded: .*expected a tokenizer\.json file"):
        make_tokenizer(f"hf:{tmp_path / 'tokenizer.json'}", [])


@pytest.mark.parametrize(("size", "dtype"), [(257, np.uint16), (65_536, np.uint16), (65_537, np.uint32)])
def test_tokens_are_stored_in_the_smallest_type(size: int, dtype: type) -> None:
    assert token_dtype(size) is dtype
