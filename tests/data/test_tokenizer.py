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


class TestSeparators:
    """C-sep: only a token that is declared as special separates, and no text makes it."""

    def file(self, folder: Path, model: object, special: list[str]) -> str:
        from tokenizers import Tokenizer as HuggingFaceTokenizer

        made = HuggingFaceTokenizer(model)
        made.add_special_tokens(special)
        made.save(str(folder / "tokenizer.json"))
        return f"hf:{folder / 'tokenizer.json'}"

    def test_no_text_makes_the_separator(self, tmp_path: Path) -> None:
        """A unigram model has its special tokens among its pieces and finds them in text."""
        from tokenizers import models

        pieces = [("<unk>", 0.0), ("</s>", 0.0), *((letter, -2.0) for letter in "ab</s>"), ("ab", -1.0)]
        name = self.file(tmp_path, models.Unigram(pieces, unk_id=0), ["</s>"])
        made = make_tokenizer(name, [])
        texts = ["ab</s>ab", "</s>", "</s></s>a", "a<", "/s>"]
        for text, tokens in zip(texts, made.encode_batch(texts), strict=True):
            assert made.separator not in tokens
            assert made.decode(tokens).replace(" ", "") == text

    def test_a_text_of_one_character_that_is_the_separator_is_refused(self, tmp_path: Path) -> None:
        from tokenizers import models

        name = self.file(tmp_path, models.Unigram([("<unk>", 0.0), ("§", -1.0)], unk_id=0), ["§"])
        with pytest.raises(ValueError, match="the text '§' is the token that ends a document; name another"):
            make_tokenizer(name, [], "§").encode_batch(["a§b"])

    def test_an_ordinary_token_of_that_name_is_not_taken(self, tmp_path: Path) -> None:
        from tokenizers import models

        name = self.file(tmp_path, models.BPE({"</s>": 0, "a": 1}, []), ["<|user|>"])
        with pytest.raises(ValueError, match=r"has no token that ends a document.*it declares <\|user\|>"):
            make_tokenizer(name, [])
        with pytest.raises(ValueError, match="no special token '</s>', which is an ordinary token of it"):
            make_tokenizer(name, [], "</s>")
        assert make_tokenizer(name, [], "<|user|>").separator == 2
        assert vocab_size(name, "<|user|>") == 3

    def test_a_folder_says_what_ends_a_text(self, tmp_path: Path) -> None:
        from tokenizers import models

        self.file(tmp_path, models.BPE({"a": 0}, []), ["<|endoftext|>", "<stop>"])
        assert make_tokenizer(f"hf:{tmp_path}", []).separator == 1
        (tmp_path / "tokenizer_config.json").write_text('{"eos_token": {"content": "<stop>"}}')
        assert make_tokenizer(f"hf:{tmp_path}", []).separator == 2

    @pytest.mark.parametrize("text", ["{", "[]"])
    def test_damaged_settings_of_a_folder_are_named(self, tmp_path: Path, text: str) -> None:
        from tokenizers import models

        self.file(tmp_path, models.BPE({"a": 0}, []), ["<|endoftext|>"])
        (tmp_path / "tokenizer_config.json").write_text(text)
        with pytest.raises(ValueError, match=r"tokenizer_config\.json is damaged: .*; mend or delete it"):
            vocab_size(f"hf:{tmp_path}")

    @pytest.mark.parametrize("name", ["bytes", "bpe:300"])
    def test_our_own_have_one_already(self, name: str) -> None:
        with pytest.raises(ValueError, match=r"is for 'hf:' tokenizers; .* has its own"):
            make_tokenizer(name, TRAINING, "</s>")


def test_without_a_network_the_answer_comes_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """No request is made when the hub does not take a connection."""
    from raysparse.data import hub

    monkeypatch.setattr(hub, "answers", lambda url: False)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda *_: pytest.fail("a request was made"))
    with pytest.raises(ValueError, match=r"cannot be loaded: there is no local copy .* does not answer"):
        make_tokenizer("hf:nobody/nothing", [])


def test_a_name_that_nobody_looks_up_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Looking up a host's name may hang where connecting would not."""
    import threading

    from raysparse.data import hub

    ended = threading.Event()

    def hang(*_: object, **__: object) -> None:
        ended.wait()
        raise OSError("no route")

    monkeypatch.setattr("socket.create_connection", hang)
    monkeypatch.setattr(hub, "PATIENCE", 0.01)
    assert not hub.answers("https://a.hub")
    ended.set()


def test_the_hub_is_asked_for_a_connection_through_the_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    from raysparse.data import hub

    asked = []

    def refuse(address: tuple[str, int], timeout: float) -> None:
        asked.append(address)
        raise OSError("no route")

    monkeypatch.setattr("socket.create_connection", refuse)
    for proxies, address in (({}, ("a.hub", 443)), ({"https": "http://proxy:3128"}, ("proxy", 3128))):
        monkeypatch.setattr("urllib.request.getproxies", lambda proxies=proxies: proxies)
        assert not hub.answers("https://a.hub")
        assert asked.pop() == address
