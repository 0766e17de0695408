"""Corpora as people have them: every form gives the same documents; what is left out is counted and
named, and what contradicts the question is refused with the place and a remedy.
"""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from corpora import prose, write_jsonl
from forms import FORMS, Writer, nested
from hypothesis import given, settings
from hypothesis import strategies as st

from raysparse.data.corpus import FiniteCorpus, open_corpus
from raysparse.data.store import TokenStore, prepare
from raysparse.files import Folder
from raysparse.reading import ReadingSpec

TEXTS = [*prose(40), 'quotes " and , commas; tabs\t\nand lines', "  spaces around  \n"]


def opened(place: Path | str, **reading: object) -> FiniteCorpus:
    found = open_corpus(str(place), ReadingSpec(**reading))  # type: ignore[arg-type]
    assert isinstance(found, FiniteCorpus)
    return found


def whole(place: Path | str, **reading: object) -> set[str]:
    return {passage.text for passage in opened(place, **reading).passages()}


def put(path: Path, data: bytes | str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return path


@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_the_same_corpus(tmp_path: Path, form: str) -> None:
    found, plain = opened(FORMS[form](tmp_path, TEXTS)), opened(write_jsonl(tmp_path / "plain.jsonl", TEXTS))
    assert list(found.passages()) == list(plain.passages())
    assert found.fingerprint == plain.fingerprint
    assert found.facts["documents"] == len(TEXTS)


@given(st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\r\0"), min_size=1), min_size=3, max_size=20))
@settings(max_examples=15)
def test_any_text_survives_any_form(tmp_path_factory: pytest.TempPathFactory, texts: list[str]) -> None:
    texts = [*texts, "not blank", "nor this"]
    found = {}
    for name, write in FORMS.items():
        if name not in ("hub folder", "saved", "saved splits"):
            found[name] = opened(write(tmp_path_factory.mktemp("form"), texts)).fingerprint
    assert set(found.values()) == {found["jsonl"]}


def test_a_packed_table_is_read(tmp_path: Path) -> None:
    put(tmp_path / "t.parquet.gz", gzip.compress(FORMS["parquet"](tmp_path, TEXTS).read_bytes()))
    put(tmp_path / "t.arrow.gz", gzip.compress(FORMS["arrow"](tmp_path, TEXTS).read_bytes()))
    assert opened(tmp_path / "t.parquet.gz").fingerprint == opened(tmp_path / "t.arrow.gz").fingerprint


class TestKinds:
    """C-kind: only what is a corpus becomes training text."""

    def test_a_folder_names_what_it_skips(self, tmp_path: Path) -> None:
        write_jsonl(tmp_path / "a.jsonl", TEXTS)
        for name in ("Thumbs.db", "notes.txt~", "picture.png", "a.zip", ".hidden.txt"):
            put(tmp_path / name, b"\x00\xff")
        found = opened(tmp_path)
        assert found.facts["files_skipped"] == 4
        assert any("Thumbs.db" in line for line in found.tally.lines())
        assert found.facts["documents"] == len(TEXTS)

    def test_half_a_folder_in_gz_is_not_lost(self, tmp_path: Path) -> None:
        FORMS["gz"](tmp_path, TEXTS[:20])
        write_jsonl(tmp_path / "b.jsonl", TEXTS[20:])
        assert opened(tmp_path).facts["documents"] == len(TEXTS)

    @pytest.mark.parametrize("name", ["a.zip", "a.jsonl.bz2", "a", "a.xml"])
    def test_a_file_of_no_known_form_is_refused(self, tmp_path: Path, name: str) -> None:
        with pytest.raises(ValueError, match=r"is a file of no form that is read; expected \.txt, \.md, .jsonl"):
            opened(put(tmp_path / name, "words"))

    def test_a_folder_of_nothing_known_says_what_it_holds(self, tmp_path: Path) -> None:
        put(tmp_path / "a.zip", "words")
        with pytest.raises(ValueError, match=r"holds no file of a form that is read, only .*a\.zip"):
            opened(tmp_path)

    def test_a_readme_among_texts_is_text(self, tmp_path: Path) -> None:
        put(tmp_path / "book.txt", "a book")
        put(tmp_path / "README.md", "about the book")
        assert whole(tmp_path) == {"a book", "about the book"}

    @pytest.mark.parametrize("data", ['[{"text": "a"}, {"text"', '{"text": "a"} nonsense', "[1, 2"])
    def test_what_is_no_json_is_refused(self, tmp_path: Path, data: str) -> None:
        with pytest.raises(ValueError, match=r"a\.json (is not JSON|record 1 has no text)"):
            opened(put(tmp_path / "a.json", data))

    @pytest.mark.parametrize("chunk", [1, 7, 1 << 20])
    def test_what_follows_an_array_is_refused_and_not_lost(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk: int
    ) -> None:
        monkeypatch.setattr("raysparse.data.forms.CHUNK", chunk)
        assert whole(put(tmp_path / "b.json", '[{"text": "one"}]\n  \n')) == {"one"}
        with pytest.raises(ValueError, match=r"""a\.json is not JSON: ['"]\[.* follows its array, expected the end"""):
            opened(put(tmp_path / "a.json", '[{"text": "one"}]\n\n[{"text": "two"}]'))

    def test_long_records_of_json_cross_the_chunks_in_which_it_is_read(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("raysparse.data.forms.CHUNK", 7)
        assert whole(FORMS["array"](tmp_path, TEXTS)) == whole(write_jsonl(tmp_path / "b.jsonl", TEXTS))

    def test_a_row_of_csv_with_more_cells_than_names_is_refused(self, tmp_path: Path) -> None:
        said = r"a\.csv row 3 \('two', \.\.\.\) has 2 cells, but 1 columns have names; quote a text .*\.txt"
        with pytest.raises(ValueError, match=said):
            opened(put(tmp_path / "a.csv", "text\none\ntwo, and more words\n"))
        assert whole(put(tmp_path / "b.csv", "id,text\n1,one,\n2,two, \n")) == {"one", "two"}, "blank cells hold none"

    @pytest.mark.parametrize("how", ["cut off", "overwritten"])
    def test_a_damaged_gz_is_named(self, tmp_path: Path, how: str) -> None:
        path = FORMS["gz"](tmp_path, TEXTS)
        data = path.read_bytes()
        path.write_bytes(data[:-50] if how == "cut off" else data[:60] + b"\xff" * 60 + data[120:])
        with pytest.raises(ValueError, match=r"a\.jsonl\.gz is damaged"):
            opened(path)

    def test_a_cut_off_last_line_is_refused(self, tmp_path: Path) -> None:
        path = write_jsonl(tmp_path / "a.jsonl", TEXTS)
        path.write_bytes(path.read_bytes()[:-20])
        with pytest.raises(ValueError, match=rf"a\.jsonl line {len(TEXTS)} is not JSON"):
            opened(path)


class TestBytes:
    """C-bytes: a bad byte costs its document, with file, byte and remedy."""

    def test_the_byte_is_named_and_the_rest_is_read(self, tmp_path: Path) -> None:
        put(tmp_path / "good.txt", "good")
        put(tmp_path / "bad.txt", b"a caf\xe9")
        found = opened(tmp_path)
        [line] = found.tally.lines()
        assert "name it with --encoding, or --replace-bad-bytes" in line
        assert "bad.txt: byte 0xe9 at 5 is not utf-8" in line
        assert whole(tmp_path, replace_bad_bytes=True) == {"good", "a caf\ufffd"}
        assert opened(tmp_path, replace_bad_bytes=True).facts["replaced"] == 1
        assert whole(tmp_path, encoding="cp1252") == {"good", "a café"}

    def test_one_line_of_json_or_row_of_csv_is_lost_not_the_file(self, tmp_path: Path) -> None:
        put(tmp_path / "a.jsonl", b'{"text": "one"}\n{"text": "caf\xe9"}\n{"text": "three"}\n')
        put(tmp_path / "b.csv", b"text\nfour\ncaf\xe9\nsix\n")
        found = opened(tmp_path)
        assert whole(tmp_path) == {"one", "three", "four", "six"}
        assert found.facts["undecodable"] == 2
        assert [
            "a.jsonl line 2" in found.tally.first["undecodable"][0],
            "b.csv row 3" in found.tally.first["undecodable"][1],
        ] == [True, True]

    @pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
    @pytest.mark.parametrize("chunk", [7, 2**20])
    def test_one_record_of_json_is_lost_and_its_byte_in_the_file_is_named(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, encoding: str, chunk: int
    ) -> None:
        monkeypatch.setattr("raysparse.data.forms.CHUNK", chunk)
        records = [{"text": f"{n} wörter"} for n in range(40)]
        data = json.dumps(records, ensure_ascii=False, indent=1).replace("30 w", "30 é").encode(encoding)
        at = data.index("é".encode())
        path = put(tmp_path / "a.json", data[:at] + b"\xe9" + data[at + 2 :])
        found = opened(path)
        assert {passage.text for passage in found.passages()} == {f"{n} wörter" for n in range(40) if n != 30}
        [named] = found.tally.first["undecodable"]
        assert named.endswith(f"a.json record 31: byte 0xe9 at {at} of the file is not {encoding}")
        assert "30 \ufffdörter" in whole(path, replace_bad_bytes=True)

    @pytest.mark.parametrize("name", ["a.jsonl", "a.json"])
    def test_utf_16_with_bytes_that_are_none_is_refused_by_the_name_of_its_file(
        self, tmp_path: Path, name: str
    ) -> None:
        data = '{"text": "one"}\n'.encode("utf-16") + b"\x00\xd8"
        with pytest.raises(ValueError, match=rf"{name} is not utf-16.* throughout: .*; name its encoding with"):
            opened(put(tmp_path / name, data + '{"text": "two"}\n'.encode("utf-16-le")))

    @pytest.mark.parametrize("encoding", ["utf-16", "utf-8-sig", "utf-32"])
    @pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.json", "a.csv"])
    def test_byte_order_marks_are_read(self, tmp_path: Path, encoding: str, name: str) -> None:
        said = {"a.txt": "wörter", "a.csv": "id,text\n1,wörter\n"}.get(name, '{"text": "wörter"}\n')
        assert whole(put(tmp_path / name, said.encode(encoding))) == {"wörter"}

    @pytest.mark.parametrize("name", ["a.txt", "a.jsonl"])
    def test_utf_16_without_a_mark_is_not_taken_for_utf_8(self, tmp_path: Path, name: str) -> None:
        said = "words" if name == "a.txt" else '{"text": "words"}\n'
        path = put(tmp_path / name, said.encode("utf-16-le"))
        with pytest.raises(
            ValueError, match=r"not of their encoding .*: zero byte at 1, which is no text, or of UTF-16"
        ):
            opened(path)
        assert whole(path, encoding="utf-16-le") == {"words"}

    def test_a_corpus_of_one_bad_file_says_why_it_is_empty(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match=r"is empty; 1 documents not of their encoding .*byte 0x92 at 3"):
            opened(put(tmp_path / "a.txt", b"abc\x92"))

    def test_an_encoding_that_does_not_exist_is_refused(self) -> None:
        with pytest.raises(ValueError, match=r"reading\.encoding is 'latin-99', expected one that Python knows"):
            ReadingSpec(encoding="latin-99")


class TestNulls:
    """C-null: null, missing and blank are counted and left out, whatever the form."""

    RECORDS = ({"text": "one"}, {"text": None}, {"id": 3}, {"text": " \n"}, {"text": "five"})

    def jsonl(self, folder: Path) -> str:
        return str(put(folder / "a.jsonl", "".join(json.dumps(record) + "\n" for record in self.RECORDS)))

    def test_in_lines_arrays_tables_and_streams(self, tmp_path: Path) -> None:
        places = [self.jsonl(tmp_path), str(put(tmp_path / "b.json", json.dumps(self.RECORDS)))]
        pq.write_table(pa.Table.from_pylist([{"text": None}, *self.RECORDS][1:]), tmp_path / "c.parquet")
        for place in [*places, str(tmp_path / "c.parquet"), f"hf:json:{places[0]}"]:
            found = open_corpus(place)
            assert {passage.text for passage in found.passages()} == {"one", "five"}
            assert (found.facts["null"], found.facts["blank"]) == (2, 1), place
            assert [entry.rpartition(" ")[2] for entry in found.tally.first["null"]] == ["2", "3"]

    def test_the_manifest_keeps_them(self, tmp_path: Path) -> None:
        store = prepare(Folder(tmp_path / "s"), self.jsonl(tmp_path), "bytes", train_tokens=1, validation_tokens=1)
        again = TokenStore.open(Folder(tmp_path / "s")).manifest
        assert again == store.manifest
        assert [line.split(":")[0] for line in again.lines()] == [
            "1 blank documents", "2 documents without text (null, or no such field)",
        ]  # fmt: skip


class TestFields:
    """C-field: fields that exist are listed, and can be named."""

    @pytest.mark.parametrize("write", [FORMS["parquet"], FORMS["csv"], FORMS["jsonl"], FORMS["array"], FORMS["arrow"]])
    def test_a_missing_field_lists_what_there_is(self, tmp_path: Path, write: Writer) -> None:
        with pytest.raises(ValueError, match=r"has no field 'txt'; did you mean 'text'\?; its fields are .*text"):
            opened(write(tmp_path, TEXTS), text_field="txt")

    def test_a_dotted_field_goes_into_records(self, tmp_path: Path) -> None:
        lines = put(tmp_path / "a.jsonl", "".join(json.dumps({"text": {"inner": text}}) + "\n" for text in TEXTS))
        plain = opened(write_jsonl(tmp_path / "plain.jsonl", TEXTS)).fingerprint
        assert opened(lines, text_field="text.inner").fingerprint == plain
        assert opened(nested(tmp_path, TEXTS), text_field="text.inner").fingerprint == plain

    def test_fields_inside_of_records_are_listed(self, tmp_path: Path) -> None:
        lines = put(tmp_path / "a.jsonl", json.dumps({"text": {"inner": "one", "more": {"id": 1}}, "id": 2}))
        table = nested(tmp_path, TEXTS)
        for place, field in ((lines, "txt"), (lines, "text.body"), (table, "txt"), (table, "text.body")):
            with pytest.raises(ValueError, match=rf"has no field '{field}'.*; its fields are text\.inner"):
                opened(place, text_field=field)

    def test_a_name_with_a_dot_in_it_wins(self, tmp_path: Path) -> None:
        path = put(tmp_path / "a.jsonl", json.dumps({"a.b": "flat", "a": {"b": "deep"}}))
        assert whole(path, text_field="a.b") == {"flat"}

    @pytest.mark.parametrize("column", [pa.array([["a"]]), pa.array([{"a": "b"}]), pa.array([1])])
    def test_a_column_without_text_names_its_type(self, tmp_path: Path, column: pa.Array) -> None:
        pq.write_table(pa.table({"text": column, "other": ["b"]}), tmp_path / "a.parquet")
        with pytest.raises(
            ValueError, match=r"has no text in its column 'text', which holds .*; its columns are text(\.a)?, other"
        ):
            opened(tmp_path / "a.parquet")

    def test_bytes_are_decoded(self, tmp_path: Path) -> None:
        pq.write_table(pa.table({"text": pa.array([b"caf\xc3\xa9", b"\xff"])}), tmp_path / "a.parquet")
        assert whole(tmp_path / "a.parquet") == {"café"}
        assert opened(tmp_path / "a.parquet").facts["undecodable"] == 1


class TestLinks:
    """C-link: every place once, and nothing that raysparse wrote."""

    def test_links_are_followed_once(self, tmp_path: Path) -> None:
        put(tmp_path / "elsewhere" / "b.txt", "beta")
        put(tmp_path / "here" / "a.txt", "alpha")
        os.symlink(tmp_path / "elsewhere", tmp_path / "here" / "linked")
        os.symlink(tmp_path / "here", tmp_path / "here" / "myself")
        os.symlink(tmp_path / "here" / "a.txt", tmp_path / "here" / "again.txt")
        for place in (tmp_path / "here", tmp_path / "here" / "**" / "*.txt"):
            assert opened(place).facts["documents"] == 2, place
            assert opened(place).facts["duplicates"] == 0, place

    def test_what_raysparse_wrote_is_no_corpus(self, tmp_path: Path) -> None:
        path = write_jsonl(tmp_path / "a.jsonl", TEXTS)
        prepare(Folder(tmp_path / "runs" / "tokens" / "x"), str(path), "bpe:300", train_tokens=9, validation_tokens=9)
        put(tmp_path / "runs" / "grid" / "plan.json", "{}")
        put(tmp_path / "runs" / "grid" / "ledger.json", "{}")
        put(tmp_path / "runs" / "grid" / "report" / "answer.txt", "an answer")
        found = opened(tmp_path)
        assert found.facts["documents"] == len(TEXTS)
        assert found.facts["files_skipped"] == 2
        for place in ("runs/grid", "runs/tokens/x"):
            with pytest.raises(ValueError, match="holds what raysparse wrote itself"):
                opened(tmp_path / place)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("hf:json:missing-*.jsonl", "no file matches 'missing-"),
        ("hf:csv:missing.csv", "no file matches 'missing.csv'"),
        ("hf:imagefolder:pictures", "'imagefolder' reads no text; expected one of json, parquet, text, csv, arrow"),
    ],
)
def test_an_argument_of_a_builder_is_used_or_refused(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        open_corpus(name)


def test_local_files_have_no_other_split(tmp_path: Path) -> None:
    path: Sequence[str] | Path = write_jsonl(tmp_path / "a.jsonl", TEXTS)
    with pytest.raises(ValueError, match="local files have no split 'test'; leave it out"):
        open_corpus(f"hf:json:{path}:test")
