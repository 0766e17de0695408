"""A corpus larger than memory: peak memory, and tokens per second beside bare `encode_batch`.

    python -m benchmarks.large_corpus --gigabytes 2     # 22 minutes on two cores, 7 GB of TMPDIR

A corpus of made-up words is written once and all of it prepared in a process of its own. What is
counted of it: everything from the call of `prepare` to the published store, so reading the corpus
twice, hashing, sorting on disk, training the tokenizer (`bpe:`), encoding, and shards that are
synced; `seconds_before` is the part before the first token. Beside it stands the library alone on
the first texts of the same corpus, with the same tokenizer, its cache cold, in the faster of two
batch sizes, nothing done with its answer: `encode_batch`, and `encode_batch_fast`, which keeps no
offsets and is what `prepare` calls. It is measured before and after, and the faster time is taken,
because a shared machine's speed drifts. Memory is the most that the process ever held (VmHWM); it
starts no other. Then a preparation is killed half-way and continued, and the two stores are
compared byte for byte.

Left out: `bytes`, for which there is no library to stand beside.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.record import earlier, save, show
from raysparse.data.forms import documents_of
from raysparse.data.store import TokenStore
from raysparse.data.tally import Tally
from raysparse.files import Folder
from raysparse.reading import ReadingSpec

NAME = "large_corpus"
# Tokens asked for, of a character of the corpus: a little less than there are.
TRAINED, HELD_OUT = 0.185, 0.009
SHARDS = 12  # at least, so that there is a half-way
BARE_CHARACTERS = 2 * 10**7  # ten seconds on two cores
BATCHES = (2**20, 2**24)  # characters of a call of encode_batch
PREPARE = """
import sys, time
from pathlib import Path
from raysparse.data.store import prepare
from raysparse.files import Folder
place, corpus, tokenizer, train, validation, shard = sys.argv[1:]
begun, first = time.perf_counter(), []
def told(line):
    first.append(time.perf_counter() - begun) if not first else None
prepare(Folder(place), corpus, tokenizer, train_tokens=int(train),
        validation_tokens=int(validation), shard_tokens=int(shard), told=told)
seconds = time.perf_counter() - begun
peak = Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0]
print(seconds, first[0], int(peak) / 1024)
"""


def write_corpus(path: Path, gigabytes: float) -> int:
    """Documents of 1 to 9 kB of words drawn by rank (Zipf), a line each; returns how many."""
    draw = random.Random(0)
    words = ["".join(draw.choices("etaoinshrdlucmfw", k=draw.randint(2, 10))) for _ in range(20_000)]
    weights = [1 / (rank + 3) for rank in range(len(words))]
    sentences = [
        " ".join(draw.choices(words, weights, k=draw.randint(6, 20))).capitalize() + ".\n" for _ in range(50_000)
    ]
    written = number = 0
    with open(path, "w") as file:
        while written < gigabytes * 1e9:
            text = f"document {number}\n" + "".join(draw.choices(sentences, k=draw.randint(12, 100)))
            written += file.write(json.dumps({"text": text}) + "\n")
            number += 1
    return number


def batches(corpus: Path, characters: int) -> Iterator[list[str]]:
    """The first BARE_CHARACTERS of the corpus, in lists of documents of about `characters`."""
    texts, size, all_of_them = [], 0, 0
    for document in documents_of(corpus, ReadingSpec(), Tally()):
        texts.append(document.text)
        size += len(document.text)
        if size >= characters:
            yield texts
            texts, all_of_them, size = [], all_of_them + size, 0
            if all_of_them >= BARE_CHARACTERS:
                return
    if texts:
        yield texts


def bare(corpus: Path, tokenizer: str, call: str) -> float:
    """Tokens per second of one method of the library, in the better of BATCHES."""
    from tokenizers import Tokenizer

    found = []
    for characters in BATCHES:
        inner = Tokenizer.from_str(tokenizer)
        inner.encode_special_tokens = True  # text is text, as in `prepare`
        encode = getattr(inner, call)
        seconds, tokens = 0.0, 0
        for texts in batches(corpus, characters):
            begun = time.perf_counter()
            encodings = encode(texts, add_special_tokens=False)
            seconds += time.perf_counter() - begun
            tokens += sum(map(len, encodings))
        found.append(tokens / seconds)
    return max(found)


def command(place: Path, corpus: Path, tokenizer: str, gigabytes: float) -> list[str]:
    train, validation = int(gigabytes * 1e9 * TRAINED), int(gigabytes * 1e9 * HELD_OUT)
    asked = [str(place), str(corpus), tokenizer, str(train), str(validation), str(min(2**24, train // SHARDS))]
    return [sys.executable, "-c", PREPARE, *asked]


def killed_and_continued(call: list[str], place: Path, half: int) -> float:
    """Kill a preparation when it has written this many shards, and continue it; seconds of that."""
    process = subprocess.Popen(call, stdout=subprocess.DEVNULL)
    while len(list(place.glob("train-*.arrow"))) < half:
        if process.poll() is not None:
            raise RuntimeError(f"a preparation ended with {process.returncode} before it had {half} shards")
        time.sleep(0.02)
    process.kill()
    process.wait()
    begun = time.perf_counter()
    subprocess.run(call, stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - begun


def same_bytes(one: Path, other: Path) -> bool:
    """Whether two stores have the same files with the same bytes."""
    names = sorted(path.name for path in one.iterdir())
    return names == sorted(path.name for path in other.iterdir()) and all(
        (one / name).read_bytes() == (other / name).read_bytes() for name in names
    )


def measure(folder: Path, gigabytes: float, tokenizer: str) -> dict[str, Any]:
    """The row of one corpus."""
    corpus = folder / "corpus.jsonl"
    documents = write_corpus(corpus, gigabytes)
    call = command(folder / "a", corpus, tokenizer, gigabytes)
    told = subprocess.run(call, capture_output=True, text=True, check=True).stdout
    seconds, before, peak = map(float, told.split())
    store = TokenStore.open(Folder(folder / "a"))
    made = store.tokenizer().to_json()
    if made is None:
        raise ValueError(f"--tokenizer is {tokenizer!r}, which the library has not; expected bpe:VOCABULARY or hf:FILE")
    alone = {call: bare(corpus, made, call) for call in ("encode_batch", "encode_batch_fast")}
    half = len(store.manifest.train.shards) // 2
    continued = killed_and_continued(command(folder / "b", corpus, tokenizer, gigabytes), folder / "b", half)
    alone = {call: max(rate, bare(corpus, made, call)) for call, rate in alone.items()}
    tokens = store.train_tokens + store.validation_tokens
    return {
        "gigabytes": gigabytes, "tokenizer": tokenizer.partition("/")[0], "documents": documents, "tokens": tokens,
        "seconds": round(seconds, 1), "seconds_before": round(before, 1), "peak_mb": round(peak),
        "tokens_per_second": round(tokens / seconds),
        "of_encode_batch": round(tokens / seconds / alone["encode_batch"], 3),
        "of_encode_batch_fast": round(tokens / seconds / alone["encode_batch_fast"], 3),
        "encode_batch": round(alone["encode_batch"]), "encode_batch_fast": round(alone["encode_batch_fast"]),
        "killed_at_shards": half, "continued_seconds": round(continued, 1),
        "same_store": same_bytes(folder / "a", folder / "b"),
    }  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, default=2.0)
    parser.add_argument("--tokenizer", default="bpe:8192")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="raysparse-large-") as place:
        row = measure(Path(place), args.gigabytes, args.tokenizer)
    show("a corpus larger than memory", [{"what": key, "found": value} for key, value in row.items()])
    kept = [
        old for old in earlier(NAME) if (old["gigabytes"], old["tokenizer"]) != (row["gigabytes"], row["tokenizer"])
    ]
    print(f"kept in {save(NAME, [*kept, row])}")
    return 0 if row["same_store"] else 1


if __name__ == "__main__":
    sys.exit(main())
