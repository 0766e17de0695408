"""The token store: whole or absent, checked when opened, extended without moving a token, free of
held-out documents.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow.fs
import pytest
from corpora import prose, write_jsonl

from raysparse.data.split import digest, is_held_out, normal
from raysparse.data.store import TokenStore, prepare
from raysparse.data.tokenizer import ByteTokenizer
from raysparse.data.unfinished import Unfinished
from raysparse.files import Folder
from raysparse.reading import ReadingSpec
from raysparse.run_folder import store_name

SEPARATOR = 256


def stream(store: TokenStore, split: str) -> np.ndarray:
    return np.concatenate(store.shards(split))


def documents(store: TokenStore, split: str) -> list[str]:
    """The packed texts of a bytes store, taken apart at the separators."""
    pieces = np.split(stream(store, split), np.flatnonzero(stream(store, split) == SEPARATOR) + 1)
    assert len(pieces[-1]) == 0, "a separator ends every passage"
    return [piece[:-1].astype(np.uint8).tobytes().decode() for piece in pieces[:-1]]


def names(path: Path) -> list[str]:
    return sorted(entry.name for entry in path.iterdir()) if path.exists() else []


def make(
    path: Path, corpus: str, tokens: int = 40_000, tokenizer: str = "bytes", validation: int = 2_000
) -> TokenStore:
    return prepare(
        Folder(path), corpus, tokenizer, train_tokens=tokens, validation_tokens=validation, shard_tokens=3_000
    )


def test_manifest_counts_are_exact(store: TokenStore) -> None:
    for split, counts in (("train", store.manifest.train), ("validation", store.manifest.validation)):
        packed = documents(store, split)
        assert counts.passages == len(packed)
        assert counts.bytes == sum(len(text.encode()) for text in packed)
        assert counts.tokens == counts.bytes + counts.passages == len(stream(store, split))
    assert store.bytes_per_token == store.manifest.validation.bytes / store.validation_tokens < 1


def test_tokens_come_back_across_shards(store: TokenStore) -> None:
    whole = stream(store, "train")
    assert len(store.shards("train")) > 10
    assert {len(shard) for shard in store.shards("train")[:-1]} == {3_000}
    assert np.array_equal(store.tokens("train", 2_990, 9_010), whole[2_990:9_010])
    positions = np.array([[0, 2_999], [3_000, len(whole) - 1]])
    assert np.array_equal(store.take("train", positions), whole[positions])
    with pytest.raises(IndexError, match="are not all among the"):
        store.tokens("train", len(whole) - 1, len(whole) + 1)


def test_shards_are_mapped_and_read_only(store: TokenStore) -> None:
    shard = store.shards("train")[0]
    assert shard.dtype == np.uint16
    assert not shard.flags.writeable
    assert not shard.flags.owndata


def test_the_number_of_shards_changes_no_token(store: TokenStore, corpus: str, tmp_path: Path) -> None:
    one = prepare(Folder(tmp_path), corpus, "bytes", train_tokens=40_000, validation_tokens=4_000)
    assert len(one.shards("train")) == 1
    assert np.array_equal(stream(one, "train"), stream(store, "train"))


def test_preparing_again_writes_nothing(corpus: str, tmp_path: Path) -> None:
    make(tmp_path, corpus)
    before = {name: (tmp_path / name).stat().st_mtime_ns for name in names(tmp_path)}
    make(tmp_path, corpus, tokens=1_000)
    assert {name: (tmp_path / name).stat().st_mtime_ns for name in names(tmp_path)} == before


@pytest.mark.parametrize("tokenizer", ["bytes", "bpe:300"])
@pytest.mark.parametrize("kind", ["finite", "stream"])
def test_a_larger_store_begins_with_the_smaller_one(corpus: str, tmp_path: Path, kind: str, tokenizer: str) -> None:
    name = f"hf:json:{corpus}" if kind == "stream" else corpus
    small = make(tmp_path, name, tokens=5_000, tokenizer=tokenizer)
    large = make(tmp_path, name, tokens=20_000, tokenizer=tokenizer, validation=1)
    assert large.train_tokens >= 20_000
    assert np.array_equal(stream(large, "train")[: small.train_tokens], stream(small, "train"))
    assert np.array_equal(stream(large, "validation"), stream(small, "validation"))
    assert TokenStore.open(Folder(tmp_path)).manifest == large.manifest


def test_more_validation_moves_no_training_token(corpus: str, tmp_path: Path) -> None:
    small = make(tmp_path, corpus, tokens=5_000, validation=500)
    large = make(tmp_path, corpus, tokens=5_000, validation=5_000)
    assert np.array_equal(stream(large, "train"), stream(small, "train"))
    assert np.array_equal(stream(large, "validation")[: small.validation_tokens], stream(small, "validation"))


def test_more_than_the_corpus_has(corpus: str, tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"data.unique_tokens 10000000 is larger than the corpus: .* trains on (\d+) tokens"
    ) as caught:
        make(tmp_path, corpus, tokens=10_000_000)
    assert names(tmp_path) == []
    there = int(str(caught.value).split("trains on ")[1].split()[0])
    assert make(tmp_path, corpus, tokens=there).train_tokens == there
    before = names(tmp_path)
    with pytest.raises(ValueError, match=f"trains on {there} tokens in .*; lower it or take a larger corpus"):
        make(tmp_path, corpus, tokens=there + 1)
    assert names(tmp_path) == before


def test_more_validation_than_the_corpus_holds_out(corpus: str, tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"data.validation_tokens 1000000 is larger than the corpus: .* holds out \d+ tokens"
    ):
        make(tmp_path, corpus, validation=1_000_000)
    assert names(tmp_path) == []


def test_a_changed_corpus_another_tokenizer_and_other_names(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", prose(200))
    folder = tmp_path / "store"
    make(folder, str(path), tokens=5_000)
    with pytest.raises(ValueError, match=r"holds tokenizer 'bytes', not 'bpe:300'; use another folder"):
        make(folder, str(path), tokenizer="bpe:300")
    with pytest.raises(ValueError, match=r"holds corpus .*, not 'python'; use another folder"):
        make(folder, "python")
    write_jsonl(path, prose(201))
    with pytest.raises(ValueError, match=r"has changed since the token store in .* was made"):
        make(folder, str(path), tokens=5_000)


@pytest.mark.parametrize("change", ["other documents", "fewer held out"])
def test_a_stream_that_changed_under_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str) -> None:
    """The tokens are compared, because a stream's fingerprint is not a hash of its documents."""
    monkeypatch.setattr("raysparse.data.corpus.StreamCorpus.fingerprint", "always the same")
    path = write_jsonl(tmp_path / "a.jsonl", prose(200))
    make(tmp_path / "store", f"hf:json:{path}", tokens=5_000)
    before = names(tmp_path / "store")
    training = [text for text in prose(200) if not is_held_out(digest(normal(text)), 0.05)]
    held_out = [text for text in prose(200) if is_held_out(digest(normal(text)), 0.05)]
    write_jsonl(path, prose(200, seed=1) if change == "other documents" else [*training, held_out[0]])
    with pytest.raises(ValueError, match="no longer begins with the tokens stored in"):
        make(tmp_path / "store", f"hf:json:{path}", tokens=20_000, validation=1)
    assert names(tmp_path / "store") == before


@pytest.mark.parametrize("harm", ["flip", "truncate", "remove"])
@pytest.mark.parametrize("split", ["train", "validation"])
def test_a_damaged_shard_is_named(corpus: str, tmp_path: Path, harm: str, split: str) -> None:
    make(tmp_path, corpus)
    shard = sorted(tmp_path.glob(f"{split}-*"))[1]
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.unlink()
    if harm != "remove":
        shard.write_bytes(data if harm == "flip" else data[:-100])
    state = "missing" if harm == "remove" else r"damaged \(its checksum is"
    for reopen in (lambda: TokenStore.open(Folder(tmp_path)), lambda: make(tmp_path, corpus)):
        with pytest.raises(
            ValueError, match=rf"token shard .*{shard.name} is {state}.*delete the folder and run again"
        ):
            reopen()


def test_a_damaged_manifest_is_named(corpus: str, tmp_path: Path) -> None:
    make(tmp_path, corpus)
    manifest = tmp_path / "manifest.json"
    whole = json.loads(manifest.read_text())
    for damage, message in (
        ("{", r"manifest\.json is not valid JSON"),
        ("[]", r"manifest\.json is not of format 1"),
        (json.dumps({**whole, "format": 99}), r"manifest\.json is not of format 1"),
        (
            json.dumps({key: value for key, value in whole.items() if key != "train"}),
            r"manifest\.json is damaged \('train'\)",
        ),
    ):
        manifest.write_text(damage)
        with pytest.raises(ValueError, match=message):
            TokenStore.open(Folder(tmp_path))


def test_the_tokenizer_comes_from_the_store(corpus: str, tmp_path: Path) -> None:
    store = make(tmp_path, corpus, tokens=5_000, tokenizer="bpe:300")
    assert store.vocab_size == 300
    assert store.tokenizer().decode(store.tokens("train", 0, 50))
    for harm in (lambda file: file.write_text("{"), Path.unlink):
        harm(tmp_path / "tokenizer.json")
        with pytest.raises(ValueError, match=r"tokenizer\.json is damaged or missing"):
            store.tokenizer()


def test_no_store(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"there is no token store in .*\(no manifest\.json\); copy it there, "):
        TokenStore.open(Folder(tmp_path))


@pytest.mark.parametrize("argument", ["train_tokens", "validation_tokens"])
def test_no_tokens(corpus: str, tmp_path: Path, argument: str) -> None:
    counts = {"train_tokens": 100, "validation_tokens": 100, argument: 0}
    with pytest.raises(ValueError, match=f"{argument} is 0, expected at least 1"):
        prepare(Folder(tmp_path), corpus, "bytes", **counts)


def test_storage_that_cannot_be_written(corpus: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ValueError, match=r"cannot write to storage"):
        make(tmp_path / "file", corpus)


def test_a_failure_while_writing_leaves_nothing(corpus: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = Folder.write

    def full_after_three(folder: Folder, name: str, data: bytes) -> None:
        if len(names(tmp_path)) >= 3:
            raise OSError("no space left on device")
        write(folder, name, data)

    monkeypatch.setattr(Folder, "write", full_after_three)
    with pytest.raises(OSError, match="no space left"):
        make(tmp_path, corpus)
    assert names(tmp_path) == []


PREPARE = """
import sys, time
from raysparse.data.store import prepare
from raysparse.files import Folder
from raysparse.run_folder import store_name
write, pause = Folder.write, float(sys.argv[3])
Folder.write = lambda folder, name, data: (time.sleep(pause), write(folder, name, data))[1]
prepare(Folder(sys.argv[1]), sys.argv[2], "bpe:300", train_tokens=40_000, validation_tokens=2_000, shard_tokens=3_000)
"""


def start(folder: Path, corpus: str, pause: float) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", PREPARE, str(folder), corpus, str(pause)])


def test_a_killed_preparation_is_no_store_and_is_done_again(corpus: str, tmp_path: Path) -> None:
    process = start(tmp_path, corpus, pause=0.1)
    deadline = time.monotonic() + 30
    while len(list(tmp_path.glob("*.arrow"))) < 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert len(list(tmp_path.glob("*.arrow"))) >= 3
    with pytest.raises(ValueError, match="there is no token store"):
        TokenStore.open(Folder(tmp_path))
    again = make(tmp_path, corpus, tokenizer="bpe:300")
    assert set(names(tmp_path)) == {*again.manifest.shard_names, "manifest.json", "tokenizer.json"}
    assert again.manifest == make(tmp_path / "undisturbed", corpus, tokenizer="bpe:300").manifest


def test_two_preparations_at_once(corpus: str, tmp_path: Path) -> None:
    both = [start(tmp_path / "store", corpus, pause=0.02) for _ in range(2)]
    assert [process.wait(timeout=60) for process in both] == [0, 0]
    found = TokenStore.open(Folder(tmp_path / "store"))
    assert found.manifest == make(tmp_path / "undisturbed", corpus, tokenizer="bpe:300").manifest
    assert not [name for name in names(tmp_path / "store") if name.endswith(".tmp")]


def test_a_smaller_store_does_not_replace_a_larger_one(
    corpus: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process publishes more tokens between our look at the folder and our last write."""
    read = TokenStore.__init__

    def meanwhile(store: TokenStore, *arguments: object) -> None:
        monkeypatch.setattr(TokenStore, "__init__", read)
        make(tmp_path, corpus, tokens=20_000)
        read(store, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(TokenStore, "__init__", meanwhile)
    ours = make(tmp_path, corpus, tokens=5_000)
    assert ours.train_tokens < 20_000 <= TokenStore.open(Folder(tmp_path)).train_tokens


@pytest.fixture
def bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Folder:
    """A folder that is not on a local disk, as far as raysparse can tell."""
    (tmp_path / "bucket").mkdir()
    remote = pyarrow.fs.SubTreeFileSystem(str(tmp_path / "bucket"), pyarrow.fs.LocalFileSystem())
    monkeypatch.setattr(Folder, "_resolve", staticmethod(lambda uri: (remote, uri.removeprefix("test://"))))
    return Folder("test://run")


def test_a_remote_store_is_copied_once(bucket: Folder, store: TokenStore, corpus: str, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    counts = {"train_tokens": 40_000, "validation_tokens": 4_000, "shard_tokens": 3_000}
    found = prepare(bucket, corpus, "bytes", cache=cache, **counts)  # type: ignore[arg-type]
    assert np.array_equal(stream(found, "train"), stream(store, "train"))
    assert set(names(cache)) == found.manifest.shard_names
    copied = {name: (cache / name).stat().st_mtime_ns for name in names(cache)}
    TokenStore.open(bucket, cache)
    assert {name: (cache / name).stat().st_mtime_ns for name in names(cache)} == copied


def test_a_damaged_copy_is_fetched_again_and_a_damaged_original_is_named(
    bucket: Folder, corpus: str, tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    prepare(bucket, corpus, "bytes", train_tokens=5_000, validation_tokens=500, cache=cache)
    (copy,) = cache.glob("train-*")
    copy.write_bytes(b"damaged")
    TokenStore.open(bucket, cache)
    copy.unlink()
    bucket.write(copy.name, b"damaged")
    with pytest.raises(ValueError, match=f"token shard test://run/{copy.name} is damaged"):
        TokenStore.open(bucket, cache)


def test_store_names_are_readable_and_distinct() -> None:
    found = {
        store_name(corpus, tokenizer, reading)
        for reading in (ReadingSpec(), ReadingSpec(text_field="content"))
        for corpus in ("python", "hf:a/b:en", "hf:a:b/en")
        for tokenizer in ("bytes", "bpe:300")
    }
    assert len(found) == 12
    assert all(name.replace("-", "").isalnum() for name in found)
    assert store_name("python", "bytes", ReadingSpec()) == "python-bytes-f977863a"


def test_a_corpus_that_results_were_not_trained_on_is_refused(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", prose(50))
    with pytest.raises(ValueError, match=r"has changed since the results .* \(fingerprint 01234567 then, .* now\)"):
        prepare(Folder(tmp_path / "s"), str(path), "bytes", train_tokens=9, validation_tokens=9, known="0123456789")
    assert names(tmp_path / "s") == []


def test_a_store_of_another_reading_is_refused(corpus: str, tmp_path: Path) -> None:
    make(tmp_path, corpus)
    with pytest.raises(ValueError, match=r"holds reading \{\}, not \{'validation_share': 0.1\}"):
        prepare(Folder(tmp_path), corpus, "bytes", train_tokens=9, validation_tokens=9,
                reading=ReadingSpec(validation_share=0.1))  # fmt: skip


class Killed(BaseException):
    """As if the process had been killed: nothing is cleaned up."""


@pytest.mark.parametrize("after", [1, 4, 9])
def test_a_preparation_goes_on_where_it_was_killed(
    corpus: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    """Batches that were packed are not encoded again, and the store is the same bit for bit."""
    monkeypatch.setattr("raysparse.data.packing.BATCH_CHARACTERS", 4_000)
    encoded: list[int] = []
    encode, save = ByteTokenizer.encode_batch, Unfinished.save

    def counted(tokenizer: ByteTokenizer, texts: Sequence[str]) -> list[np.ndarray]:
        encoded.append(len(texts))
        return encode(tokenizer, texts)

    def killed(progress: Unfinished, folder: Folder, asked: dict) -> list[str]:
        found = save(progress, folder, asked)
        saves.append(progress.batches)
        if len(saves) == after:
            raise Killed
        return found

    saves: list[int] = []
    monkeypatch.setattr(ByteTokenizer, "encode_batch", counted)
    undisturbed = make(tmp_path / "undisturbed", corpus, tokenizer="bytes")
    all_of_them = sum(encoded)
    with monkeypatch.context() as patch:
        patch.setattr(Unfinished, "save", killed)
        patch.setattr("raysparse.data.store.withdrawn_on_failure", lambda folder: contextlib.nullcontext([]))
        with pytest.raises(Killed):
            make(tmp_path / "store", corpus)
    encoded.clear()
    again = make(tmp_path / "store", corpus)
    assert again.manifest == undisturbed.manifest
    assert sum(encoded) < all_of_them
    for name in again.manifest.shard_names:
        assert (tmp_path / "store" / name).read_bytes() == (tmp_path / "undisturbed" / name).read_bytes()


def test_another_question_begins_anew(corpus: str, tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    folder.write_json("progress.json", {"asked": {}, "batches": 3, "splits": {}})
    assert make(tmp_path, corpus).manifest == make(tmp_path / "other", corpus).manifest
