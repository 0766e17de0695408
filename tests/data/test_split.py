"""The split is honest: nothing that is one text, one group or nearly one text stands on both sides,
the share is what it says for any mix of sizes, and every document is accounted for once.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from pathlib import Path

import pytest
from corpora import prose, write_jsonl
from forms import FORMS
from hypothesis import example, given, settings
from hypothesis import strategies as st

from raysparse.data import near
from raysparse.data.corpus import FiniteCorpus, open_corpus
from raysparse.data.passage import Policy
from raysparse.data.split import PASSAGE_CHARACTERS, REACH, Unit, cut, digest, held_out, normal
from raysparse.data.spool import Spool
from raysparse.data.store import prepare
from raysparse.files import Folder
from raysparse.reading import ReadingSpec

# A document is (seed of its words, characters, how its ends are written, group).
ENDS = ["{}", "{}\n", "\n {} ", "{}\t\n\n"]
sizes = st.one_of(st.integers(1, 400), st.integers(3_000, 12_000))
documents = st.lists(
    st.tuples(st.integers(0, 10**6), sizes, st.sampled_from(ENDS), st.sampled_from(["", "", "x", "y", "z"])),
    min_size=4,
    max_size=40,
)
folders = st.lists(
    st.tuples(documents, st.sampled_from(["jsonl", "csv", "array", "parquet", "gz"])), min_size=1, max_size=3
)


WORDS = ["".join(random.Random(n).choices("abcdefghij", k=2 + n % 7)) + " \n"[n % 9 == 0] for n in range(500)]


def words(seed: int, characters: int) -> str:
    return "".join(random.Random(seed).choices(WORDS, k=1 + characters // 2))[:characters].strip() or f"word{seed}"


def sides(found: FiniteCorpus) -> tuple[set[str], set[str]]:
    """Normalised training and held-out passages."""
    passages = list(found.passages())
    return tuple({normal(p.text) for p in passages if p.held_out is side} for side in (False, True))  # type: ignore[return-value]


@given(drawn=folders, blank=st.integers(0, 3), null=st.integers(0, 3), repeats=st.integers(0, 5))
@settings(max_examples=30)
def test_any_folder_is_split_honestly(
    tmp_path_factory: pytest.TempPathFactory, drawn: list, blank: int, null: int, repeats: int
) -> None:
    folder = tmp_path_factory.mktemp("folder")
    texts: list[str] = []
    for number, (rows, form) in enumerate(drawn):
        here = folder / str(number)
        here.mkdir()
        made = [how.format(words(seed, size)) for seed, size, how, _ in rows]
        FORMS[form](here, made)
        texts += made
    again = texts[:repeats]  # fewer where there are fewer texts
    rows = [{"text": text} for text in again] + [{"text": " "}] * blank + [{"text": None}] * null
    (folder / "more.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = open_corpus(str(folder), ReadingSpec(near_duplicates="off"))
    assert isinstance(found, FiniteCorpus)

    training, apart = sides(found)
    assert not training & apart
    kept = {}  # of texts that are one, the one with the least hash
    for text in sorted(texts, key=digest):
        kept.setdefault(normal(text), text)
    facts = Counter(found.facts)
    assert facts["documents"] == len(kept)
    assert facts["duplicates"] == len(texts) + len(again) - len(kept)
    assert (facts["blank"], facts["null"]) == (blank, null)
    # Every kept document is on one side whole; one at most is cut.
    pieces = {key: {normal(piece) for piece in cut(text)} for key, text in kept.items()}
    held = [key for key in kept if pieces[key] <= apart]
    of = Counter(piece for one in pieces.values() for piece in one)  # a short document may be a passage of a long one
    own = {key: {piece for piece in one if of[piece] == 1} for key, one in pieces.items()}
    divided = [key for key in kept if own[key] & apart and not own[key] <= apart]
    assert len(held) - facts["held_out"] in (0, facts["cut"])
    assert len(divided) <= facts["cut"] <= 1
    total = sum(map(len, kept.values()))
    share = sum(len(p.text) for p in found.passages() if p.held_out)
    assert abs(share - 0.05 * total) <= PASSAGE_CHARACTERS


@given(
    sizes=st.lists(sizes, min_size=2, max_size=60),
    share=st.floats(0.01, 0.5),
    whole=st.booleans(),
)
def test_the_share_is_met_within_a_passage_for_any_sizes(sizes: list[int], share: float, whole: bool) -> None:
    """Or as nearly as units that may not be cut allow."""
    units = [Unit(size, (n,), not whole) for n, size in enumerate(sizes)]
    found = held_out(units, share)
    wanted = share * sum(sizes)
    got = sum(sizes[n] for n in found.documents) + found.characters
    assert found.documents or found.cut is not None
    if not whole:
        assert abs(got - wanted) <= PASSAGE_CHARACTERS
    elif abs(got - wanted) > PASSAGE_CHARACTERS:
        left = [size for n, size in enumerate(sizes) if n not in found.documents]
        assert got > wanted or all(size > wanted - got + PASSAGE_CHARACTERS for size in left)


@given(st.lists(st.tuples(sizes, st.sampled_from("abcdefgh")), min_size=10, max_size=60))
@example([(1, "b")] * 8 + [(4445, "b"), (4541, "a")])  # a group of one document, too large for the share
@settings(max_examples=30)
def test_no_group_stands_on_both_sides(tmp_path_factory: pytest.TempPathFactory, drawn: list[tuple[int, str]]) -> None:
    groups = {group for _, group in drawn}
    path = tmp_path_factory.mktemp("groups") / "a.jsonl"
    rows = [
        {"text": f"document {n} {words(n, size)}", "from": {"book": group}} for n, (size, group) in enumerate(drawn)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    reading = ReadingSpec(group_field="from.book", near_duplicates="off")
    if len(groups) == 1:
        with pytest.raises(ValueError, match=r"all documents are one group .*--validation, drop --group-field"):
            open_corpus(str(path), reading)
        return
    training, apart = sides(open_corpus(str(path), reading))  # type: ignore[arg-type]
    where: dict[str, set[bool]] = {group: set() for group in groups}
    for row in rows:
        for piece in map(normal, cut(str(row["text"]))):
            where[row["from"]["book"]] |= {side for side, of in ((True, apart), (False, training)) if piece in of}  # type: ignore[index]
    assert all(len(found) <= 1 for found in where.values())
    assert {side for found in where.values() for side in found} == {True, False}


class TestOneText:
    """C-same: texts that differ in line ends or outer white space are one text."""

    def test_no_held_out_text_is_trained_on_but_for_a_newline(self, tmp_path: Path) -> None:
        texts = prose(100)
        path = write_jsonl(tmp_path / "a.jsonl", [how for t in texts for how in (t, t + "\n", t.replace("\n", "\r\n"))])
        found = open_corpus(str(path))
        training, apart = sides(found)  # type: ignore[arg-type]
        assert apart
        assert not training & apart
        assert (found.facts["documents"], found.facts["duplicates"]) == (100, 200)

    def test_a_stream_puts_them_on_one_side(self, tmp_path: Path) -> None:
        texts = prose(200)
        stream = open_corpus(f"hf:json:{write_jsonl(tmp_path / 'a.jsonl', [*texts, *(t + chr(10) for t in texts)])}")
        training, apart = sides(stream)  # type: ignore[arg-type]
        assert apart
        assert not training & apart


class TestOneLongDocument:
    """The share is what it says where one document is longer than it."""

    def test_a_book_among_notes_is_cut_when_the_notes_are_too_few(self, tmp_path: Path) -> None:
        (tmp_path / "book.txt").write_text(words(0, 200_000))
        (tmp_path / "README.md").write_text("My corpus, one novel.")
        found = open_corpus(str(tmp_path))
        held = sum(len(p.text) for p in found.passages() if p.held_out)
        assert abs(held - 0.05 * 200_021) <= PASSAGE_CHARACTERS
        assert found.facts["cut"] == 1

    def test_it_stays_whole_when_they_are_enough(self, tmp_path: Path) -> None:
        path = write_jsonl(tmp_path / "a.jsonl", [words(0, 300_000), *(words(n, 1_000) for n in range(1, 200))])
        found = open_corpus(str(path))
        held = sum(len(p.text) for p in found.passages() if p.held_out)
        assert found.facts["cut"] == 0
        assert abs(held - 0.05 * 499_000) <= PASSAGE_CHARACTERS


class TestOwnValidation:
    def test_it_is_held_out_whole_and_nothing_of_it_is_trained_on(self, tmp_path: Path) -> None:
        texts = prose(60)
        corpus = write_jsonl(tmp_path / "a.jsonl", texts)
        own = write_jsonl(tmp_path / "own.jsonl", [texts[0] + "\n", "apart"])
        for place in (str(corpus), f"hf:json:{corpus}"):
            found = open_corpus(place, ReadingSpec(validation=str(own)))
            passages = list(found.passages())
            assert {normal(p.text) for p in passages if p.held_out} == {texts[0], "apart"}
            assert {p.text for p in passages if not p.held_out} == set(texts[1:])

    def test_its_groups_are_withheld(self, tmp_path: Path) -> None:
        rows = [{"text": words(n, 50), "book": "ab"[n % 2]} for n in range(10)]
        (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        (tmp_path / "own.jsonl").write_text(json.dumps({"text": "another", "book": "a"}))
        reading = ReadingSpec(validation=str(tmp_path / "own.jsonl"), group_field="book")
        for place in (tmp_path / "a.jsonl", f"hf:json:{tmp_path / 'a.jsonl'}"):
            found = open_corpus(str(place), reading)
            assert {p.text for p in found.passages() if not p.held_out} == {words(n, 50) for n in range(1, 10, 2)}
            assert found.facts["withheld"] == 5

    def test_the_whole_corpus_cannot_be_it(self, tmp_path: Path) -> None:
        path = str(write_jsonl(tmp_path / "a.jsonl", prose(5)))
        with pytest.raises(ValueError, match=r"holds every document of corpus .*, so none is left to train on"):
            open_corpus(path, ReadingSpec(validation=path))

    def test_a_share_beside_it_is_refused(self) -> None:
        with pytest.raises(ValueError, match="held out is either a share of the corpus or a set of its own"):
            ReadingSpec(validation="a", validation_share=0.1)


@pytest.mark.parametrize("share", [0.01, 0.2])
def test_another_share_is_another_split_with_another_fingerprint(tmp_path: Path, share: float) -> None:
    path = str(write_jsonl(tmp_path / "a.jsonl", prose(800)))
    reading = ReadingSpec(near_duplicates="off")
    found, plain = open_corpus(path, reading.replace(validation_share=share)), open_corpus(path, reading)
    held, total = (sum(len(p.text) for p in found.passages() if p.held_out or every) for every in (False, True))
    assert abs(held / total - share) < 0.005
    assert found.fingerprint != plain.fingerprint


class TestFirstRule:
    """The default corpus, and stores from before the second rule, keep their split."""

    def test_python_is_split_by_it(self) -> None:
        found = open_corpus("python")
        assert isinstance(found, FiniteCorpus)
        assert found.policy == Policy(REACH, near=False)
        texts = {digest(text): text for _, text in found.texts()}
        wanted, held = 0.05 * sum(map(len, texts.values())), set()
        for key in sorted(texts):  # the rule in its plainest form
            if wanted > 0:
                held |= set(cut(texts[key]))
                wanted -= len(texts[key])
        assert {p.text for p in found.passages() if p.held_out} == held
        import hashlib

        assert found.fingerprint == hashlib.sha256(b"".join(sorted(texts))).hexdigest()

    def test_an_older_store_is_extended_under_its_own_rule(self, tmp_path: Path) -> None:
        # Written by the first rule: one long document overshoots the share.
        texts = [words(n, 40_000 if n % 5 == 0 else 500) for n in range(60)]
        path = write_jsonl(tmp_path / "a.jsonl", texts)
        folder = Folder(tmp_path / "store")
        made = prepare(folder, str(path), "bytes", train_tokens=1_000, validation_tokens=1_000)
        assert made.manifest.split_rule != REACH
        by_first = FiniteCorpus(str(path), [path], policy=Policy(REACH, near=False))
        old = made.manifest.__class__.read(folder)
        assert old is not None
        values = folder.read_json("manifest.json")
        for added in ("left_out", "reading", "split_rule", "near_duplicates"):
            del values[added]
        folder.write_json("manifest.json", {**values, "corpus_fingerprint": by_first.fingerprint})
        again = prepare(folder, str(path), "bytes", train_tokens=500, validation_tokens=500)
        assert again.manifest.split_rule == REACH
        assert again.corpus_fingerprint == by_first.fingerprint


needs_datasketch = pytest.mark.skipif(not near.installed(), reason="pip install datasketch")


class TestNear:
    def texts(self) -> list[str]:
        draw = random.Random(5)
        return [" ".join(f"w{draw.choice('abcdefghijklmnop')}{draw.choice('abcdefghijklmnop')}" for _ in range(400))
                for _ in range(40)]  # fmt: skip

    def test_runs_forget_case_marks_and_white_space(self) -> None:
        assert near.runs("One  two, three\nfour five!") == near.runs("one two three four five")
        assert len(near.runs("数据模型训练稀疏" * 20)) > 1

    @needs_datasketch
    def test_near_duplicates_are_on_one_side_and_counted(self, tmp_path: Path) -> None:
        texts = self.texts()
        nearly = [text.replace(" ", "\n", 3) + f" page {n}" for n, text in enumerate(texts)]
        found = open_corpus(str(write_jsonl(tmp_path / "a.jsonl", [*texts, *nearly])))
        assert found.policy.near
        assert found.facts["near_duplicates"] == len(texts)
        held = [p.text for p in found.passages() if p.held_out]
        assert held
        for text, other in zip(texts, nearly, strict=True):
            assert (text in held) == (other in held)

    @needs_datasketch
    def test_those_of_an_own_validation_set_are_withheld(self, tmp_path: Path) -> None:
        texts = self.texts()
        own = write_jsonl(tmp_path / "own.jsonl", [texts[3] + " and a little more"])
        found = open_corpus(str(write_jsonl(tmp_path / "a.jsonl", texts)), ReadingSpec(validation=str(own)))
        assert found.facts["withheld"] == 1
        assert texts[3] not in {p.text for p in found.passages()}

    def test_without_datasketch_asking_for_them_is_refused(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(near, "installed", lambda: False)
        path = str(write_jsonl(tmp_path / "a.jsonl", prose(5)))
        assert not open_corpus(path).policy.near
        with pytest.raises(ValueError, match=r"cannot be looked for: pip install datasketch"):
            open_corpus(path, ReadingSpec(near_duplicates="on"))


@given(drawn=documents, groups=st.booleans())
@settings(max_examples=25)
def test_a_corpus_that_is_sorted_on_disk_is_the_same(
    tmp_path_factory: pytest.TempPathFactory, drawn: list[tuple[int, int, str, str]], groups: bool
) -> None:
    """Larger than memory: the same passages in the same order, whatever the number of buckets."""
    path = tmp_path_factory.mktemp("disk") / "a.jsonl"
    texts = [how.format(f"{n} {words(seed, size)}") for n, (seed, size, how, _) in enumerate(drawn)]
    rows = [{"text": text, "book": group} for text, (_, _, _, group) in zip(texts, drawn, strict=True)]
    path.write_text("".join(json.dumps(row) + "\n" for row in [*rows, *rows[:2]]))
    reading = ReadingSpec(group_field="book" if groups else "", near_duplicates="off")
    with pytest.MonkeyPatch.context() as patch:
        if groups and len({group or str(n) for n, (_, _, _, group) in enumerate(drawn)}) == 1:
            return  # one group has no second side
        whole = FiniteCorpus("a", [path], reading)
        patch.setattr("raysparse.data.corpus.HELD_CHARACTERS", 0)
        patch.setattr("raysparse.data.spool.BUCKET_BYTES", 5_000)
        on_disk = FiniteCorpus("a", [path], reading)
        assert list(on_disk.passages()) == list(whole.passages()) == list(on_disk.passages())
    assert (on_disk.fingerprint, on_disk.facts) == (whole.fingerprint, whole.facts)


def test_what_is_sorted_on_disk_leaves_nothing_there_when_its_process_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its files have no names from the start."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    spool = Spool(100)
    spool.add(digest("a"), False, "a")
    assert [text for _, _, text in spool] == ["a"]
    assert not list(tmp_path.iterdir())


def test_a_file_that_changes_while_it_is_read_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raysparse.data.corpus.HELD_CHARACTERS", 0)
    path = write_jsonl(tmp_path / "a.jsonl", prose(20))
    found = FiniteCorpus("a", [path], ReadingSpec(near_duplicates="off"))
    write_jsonl(path, prose(20, seed=1))
    with pytest.raises(ValueError, match="has changed while it was read; run again"):
        list(found.passages())
