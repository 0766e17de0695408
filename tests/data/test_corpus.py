"""Corpora: which documents are found, that the split and the order depend on nothing but text, and
what bad input says.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from corpora import prose, write_jsonl
from hypothesis import given, settings
from hypothesis import strategies as st

from raysparse.data.corpus import FiniteCorpus, open_corpus
from raysparse.data.places import files_of
from raysparse.data.split import PASSAGE_CHARACTERS, cut, digest, is_held_out, normal
from raysparse.data.stream import StreamCorpus
from raysparse.data.tally import Tally
from raysparse.reading import ReadingSpec

texts = st.lists(st.text(st.characters(codec="utf-8"), min_size=1), min_size=1, max_size=40)


def corpus_files(name: str) -> list[Path]:
    return files_of(name, Tally())


def whole(name: str) -> set[str]:
    return {passage.text for passage in open_corpus(name).passages()}


def test_python_is_the_standard_library_without_installed_packages() -> None:
    files = corpus_files("python")
    assert Path(__import__("json").__file__).resolve() in files
    assert not any("site-packages" in path.parts for path in files)


def test_python_with_packages_adds_what_is_installed() -> None:
    files = corpus_files("python+packages")
    assert set(corpus_files("python")) < set(files)
    assert Path(pytest.__file__).resolve() in files


def test_python_fingerprint_does_not_depend_on_the_process() -> None:
    assert open_corpus("python").fingerprint == open_corpus("python").fingerprint


@pytest.mark.parametrize("pattern", ["", "*.txt", "**/*.txt"])
def test_text_files_by_folder_and_glob(tmp_path: Path, pattern: str) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "a.txt").write_text("alpha")
    (tmp_path / "deep" / "b.txt").write_text("beta")
    (tmp_path / ".hidden").write_text("never")
    expected = {"alpha"} if pattern == "*.txt" else {"alpha", "beta"}
    assert whole(str(tmp_path / pattern) if pattern else str(tmp_path)) == expected


def test_one_corpus_may_mix_formats(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "a.jsonl", ["one", "two"])
    pq.write_table(pa.table({"text": ["three", None, "two"], "id": [1, 2, 3]}), tmp_path / "b.parquet")
    (tmp_path / "c.md").write_text("four", encoding="utf-8-sig")
    found = open_corpus(str(tmp_path))
    assert {p.text for p in found.passages()} == {"one", "two", "three", "four"}
    assert (found.facts["documents"], found.facts["duplicates"], found.facts["null"]) == (4, 1, 1)


def test_sources_are_read_in_their_declared_encoding(tmp_path: Path) -> None:
    (tmp_path / "latin.py").write_bytes("# coding: latin-1\nname = 'é'\n".encode("latin-1"))
    assert whole(str(tmp_path)) == {"# coding: latin-1\nname = 'é'\n"}


def test_what_is_not_text_and_blank_documents_are_skipped_counted_and_named(tmp_path: Path) -> None:
    (tmp_path / "picture.png").write_bytes(b"\x89PNG\xff")
    (tmp_path / "wrong.py").write_bytes(b"# coding: nonsense\n")
    (tmp_path / "bad.txt").write_bytes(b"caf\xe9")
    (tmp_path / "empty.txt").write_text(" \n")
    (tmp_path / "good.txt").write_text("good")
    found = open_corpus(str(tmp_path))
    assert found.facts["documents"] == 1
    assert (found.facts["files_skipped"], found.facts["undecodable"], found.facts["blank"]) == (1, 2, 1)
    assert found.tally.first["files_skipped"] == [str(tmp_path / "picture.png")]
    assert found.tally.first["undecodable"][0].endswith("bad.txt: byte 0xe9 at 3 is not utf-8")


def test_half_a_surrogate_pair_in_json_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "a\\ud800b"}\n')
    assert whole(str(tmp_path)) == {"a?b"}


@given(st.text(st.sampled_from("ab\n"), max_size=5 * PASSAGE_CHARACTERS))
@settings(max_examples=50, deadline=None)
def test_passages_put_together_are_the_document(text: str) -> None:
    pieces = list(cut(text * 3))
    assert "".join(pieces) == text * 3
    assert all(0 < len(piece) <= PASSAGE_CHARACTERS for piece in pieces)


def test_passages_end_at_line_ends() -> None:
    assert all(piece.endswith("\n") for piece in cut("a line of text\n" * 5000))


@given(texts)
@settings(max_examples=50, deadline=None)
def test_order_and_split_depend_on_the_documents_alone(
    tmp_path_factory: pytest.TempPathFactory, documents: list[str]
) -> None:
    documents = [*documents, "one that is not blank"]
    folder = tmp_path_factory.mktemp("order")
    forward = FiniteCorpus("forward", [write_jsonl(folder / "a.jsonl", documents)])
    twice_reversed = FiniteCorpus("backward", [write_jsonl(folder / "b.jsonl", [*documents, *documents][::-1])])
    assert list(forward.passages()) == list(twice_reversed.passages())
    assert forward.fingerprint == twice_reversed.fingerprint


def test_about_one_document_of_a_stream_in_twenty_is_held_out() -> None:
    share = sum(is_held_out(digest(text), 0.05) for text in prose(5000)) / 5000
    assert 0.04 < share < 0.06


def test_a_single_book_is_split_by_passages(tmp_path: Path) -> None:
    (tmp_path / "book.txt").write_text("".join(f"line {n} of the book\n" for n in range(20_000)))
    sides = {passage.held_out for passage in open_corpus(str(tmp_path / "book.txt")).passages()}
    assert sides == {True, False}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("pyhton", "corpus 'pyhton' is not a name we know and no file, folder or glob matches it; expected 'python'"),
        ("missing/*.txt", "no file, folder or glob matches it"),
        ("hf:", "not of the form 'hf:NAME"),
        ("hf:a:b:c:d", "not of the form 'hf:NAME"),
    ],
)
def test_unknown_names(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message.replace("[", r"\[").replace("*", r"\*")):
        open_corpus(name)


def test_an_empty_folder_and_a_corpus_without_text(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is a folder without files"):
        open_corpus(str(tmp_path))
    (tmp_path / "blank.txt").write_text("\n")
    with pytest.raises(ValueError, match=r"is empty; 1 blank documents: .*blank\.txt"):
        open_corpus(str(tmp_path))


@pytest.mark.parametrize("line", ['["text"]', '{"text": 3}', '{"text": ["a"]}'])
def test_a_line_without_text_is_named(tmp_path: Path, line: str) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "fine"}\n\n' + line + "\n")
    with pytest.raises(ValueError, match=r"a\.jsonl line 3 has no text"):
        open_corpus(str(tmp_path))


def test_a_line_that_is_not_json_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text("{text}\n")
    with pytest.raises(ValueError, match=r"a\.jsonl line 1 is not JSON"):
        open_corpus(str(tmp_path))


def test_a_parquet_file_without_text_names_its_columns(tmp_path: Path) -> None:
    pq.write_table(pa.table({"content": ["a"], "id": [1]}), tmp_path / "a.parquet")
    with pytest.raises(
        ValueError, match=r"a\.parquet has no field 'text'.*; its fields are content, id; name one with --text-field"
    ):
        open_corpus(str(tmp_path))
    (tmp_path / "a.parquet").write_text("no table")
    with pytest.raises(ValueError, match=r"a\.parquet is not a Parquet file"):
        open_corpus(str(tmp_path))


class TestStream:
    """A Hugging Face dataset in streaming mode, from local files through the real `datasets`."""

    def test_documents_come_in_order_and_uncut(self, tmp_path: Path) -> None:
        documents = [*prose(50), "long " * PASSAGE_CHARACTERS]
        stream = open_corpus(f"hf:json:{write_jsonl(tmp_path / 'a.jsonl', documents)}")
        assert [p.text for p in stream.passages()] == documents
        assert [p.held_out for p in stream.passages()] == [is_held_out(digest(normal(d)), 0.05) for d in documents]

    def test_fingerprint_is_repeatable_and_tells_files_apart(self, tmp_path: Path) -> None:
        names = [f"hf:json:{write_jsonl(tmp_path / f'{n}.jsonl', prose(3, seed=n))}" for n in range(2)]
        first, again, other = (StreamCorpus(name).fingerprint for name in (names[0], names[0], names[1]))
        assert first == again != other

    def test_a_dataset_without_text_names_its_fields(self, tmp_path: Path) -> None:
        (tmp_path / "a.jsonl").write_text('{"content": "a", "id": 1}\n')
        with pytest.raises(
            ValueError, match=r"has no field 'text'.*; its fields are content, id; name one with --text-field"
        ):
            list(open_corpus(f"hf:json:{tmp_path / 'a.jsonl'}").passages())

    def test_a_group_field_that_does_not_exist_is_refused(self, tmp_path: Path) -> None:
        path = write_jsonl(tmp_path / "a.jsonl", prose(3))
        stream = open_corpus(f"hf:json:{path}", ReadingSpec(group_field="nope"))
        with pytest.raises(ValueError, match=r"has no field 'nope'.*; its fields are text; name one with --group-fie"):
            list(stream.passages())

    def test_a_dataset_that_does_not_exist(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match=r"corpus 'hf:json:.*' does not exist: no file matches"):
            list(open_corpus(f"hf:json:{tmp_path / 'none.jsonl'}").passages())

    def test_name_config_and_split_reach_datasets_and_a_dead_network_is_named(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        import datasets

        def unreachable(**arguments: str) -> None:
            assert arguments == {"path": "allenai/c4", "name": "en"}
            raise ConnectionError("no route")

        monkeypatch.setattr(datasets, "load_dataset_builder", unreachable)
        with pytest.raises(
            ConnectionError, match=r"corpus 'hf:allenai/c4:en:train' cannot be read: no route; check the network"
        ):
            list(open_corpus("hf:allenai/c4:en:train").passages())

    @pytest.mark.parametrize("error", [PermissionError, FileNotFoundError, NotADirectoryError, OSError])
    def test_a_home_that_cannot_be_written_is_not_taken_for_the_network(
        self, monkeypatch: pytest.MonkeyPatch, error: type[OSError], tmp_path: Path
    ) -> None:
        """C-link: what the system says of the folder that the library keeps its copies in."""
        import datasets

        def unwritable(**_: str) -> None:
            raise error(30, "the system's words", "/home/nobody/.cache")

        monkeypatch.setattr(datasets, "load_dataset_builder", unwritable)
        with pytest.raises(
            ValueError, match=r"cannot be read: .*'/home/nobody/\.cache'; .* HF_HOME names, which must be"
        ):
            list(open_corpus("hf:allenai/c4:en").passages())


def test_naming_a_stream_does_not_load_datasets() -> None:
    import subprocess

    code = (
        "import sys; from raysparse.data import store, corpus; corpus.open_corpus('hf:a'); print(sorted(sys.modules))"
    )
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert not any(f"'{name}'" in loaded for name in ("torch", "ray", "datasets", "tokenizers"))
