"""`raysparse data CORPUS`: what it says is what a store then holds."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from corpora import prose, write_jsonl

from raysparse.console.cli import main
from raysparse.data import describe
from raysparse.data.store import prepare
from raysparse.files import Folder


def test_it_says_what_there_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    texts = prose(100)
    write_jsonl(tmp_path / "a.jsonl", [*texts, texts[0], " "])
    (tmp_path / "picture.png").write_bytes(b"\x89")
    assert main(["data", str(tmp_path), "--near-duplicates", "off", "--tokenizer", "bytes", "bpe:300"]) == 0
    said = capsys.readouterr().out
    for line in ("1 files, 100 documents", "1 blank documents", "1 files that are no corpus", "picture.png",
                 "1 documents are there already", "scripts: latin", "largest", "tokenizer bpe:300"):  # fmt: skip
        assert line in said


@pytest.mark.parametrize("tokenizer", ["bytes", "bpe:300"])
def test_a_sweep_can_ask_for_the_tokens_that_it_says(tmp_path: Path, tokenizer: str) -> None:
    from raysparse.data.corpus import open_corpus

    path = str(write_jsonl(tmp_path / "a.jsonl", prose(60)))
    train, held_out = describe.tokens(open_corpus(path), tokenizer)  # type: ignore[arg-type]
    store = prepare(Folder(tmp_path / "s"), path, tokenizer, train_tokens=int(train), validation_tokens=int(held_out))
    assert (store.train_tokens, store.validation_tokens) == (train, held_out)


def test_an_unknown_field_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", prose(3))
    assert main(["data", str(path), "--text-field", "body"]) == 2
    assert re.fullmatch(r"error: .* has no field 'body'.*; its fields are text; .*\n", capsys.readouterr().err)
