"""`raysparse data CORPUS`: what it says is what a store then holds."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from corpora import prose, write_jsonl

from raysparse.console.cli import main
from raysparse.data import describe
from raysparse.data.corpus import open_corpus
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
    path = str(write_jsonl(tmp_path / "a.jsonl", prose(60)))
    said = last_line(path, tokenizer)
    train, held_out = (int(number) for number in re.findall(r" (\d+) (?:unique|are)", said))
    store = prepare(Folder(tmp_path / "s"), path, tokenizer, train_tokens=train, validation_tokens=held_out)
    assert (store.train_tokens, store.validation_tokens) == (train, held_out)


def last_line(path: str, tokenizer: str) -> str:
    return list(describe.lines(open_corpus(path), [tokenizer]))[-1]  # type: ignore[arg-type]


def test_tokens_of_a_sample_are_said_to_be_about_so_many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(describe, "SAMPLE_PASSAGES", 4)
    said = last_line(str(write_jsonl(tmp_path / "a.jsonl", prose(200))), "bytes")
    assert re.search(r"ask for about [\d.]+k unique tokens; about [\d.]+k are held out", said)


def test_the_share_that_is_held_out_is_that_of_the_pieces(tmp_path: Path) -> None:
    (tmp_path / "book.txt").write_text("a few words\n" * 100 + "some others\n" * 800)
    found = open_corpus(str(tmp_path))
    apart, whole = (sum(len(p.text) for p in found.passages() if p.held_out or every) for every in (False, True))
    [said] = [line for line in describe.lines(found, []) if "held out:" in line]  # type: ignore[arg-type]
    assert apart / whole > 0.2
    assert said == f"  held out: 0 documents, one cut ({apart / whole:.1%} of characters)"


def test_an_unknown_field_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", prose(3))
    assert main(["data", str(path), "--text-field", "body"]) == 2
    assert re.fullmatch(r"error: .* has no field 'body'.*; its fields are text; .*\n", capsys.readouterr().err)
