"""A corpus larger than memory: peak memory, and tokens per second beside bare `encode_batch`.

Run it: `python -m benchmarks.large_corpus --gigabytes 2` (a quarter of an hour on two cores). It
makes a corpus of made-up words once, prepares all of it in a process of its own, kills one
preparation half-way and continues it, and compares the stores bit for bit.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from raysparse.data.forms import documents_of
from raysparse.data.store import TokenStore
from raysparse.data.tally import Tally
from raysparse.files import Folder
from raysparse.reading import ReadingSpec

PREPARE = """
import resource, sys, time
from raysparse.data.store import prepare
from raysparse.files import Folder
begun = time.perf_counter()
place, corpus, tokenizer, train = sys.argv[1:]
asked = {"train_tokens": int(train), "validation_tokens": 1_000_000}
store = prepare(Folder(place), corpus, tokenizer, **asked)
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print(store.train_tokens + store.validation_tokens, time.perf_counter() - begun, peak)
"""


def write_corpus(path: Path, gigabytes: float) -> None:
    """Documents of 1 to 8 kB of words drawn by rank (Zipf), a line each."""
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


def bare(path: Path, store: TokenStore, megabytes: int = 100) -> float:
    """Tokens per second of encode_batch alone, on the first texts of the corpus."""
    tokenizer = store.tokenizer()._inner  # type: ignore[attr-defined]
    texts, size = [], 0
    for document in documents_of(path, ReadingSpec(), Tally()):
        texts.append(document.text)
        size += len(document.text)
        if size > megabytes * 1e6:
            break
    begun = time.perf_counter()
    tokens = sum(
        len(encoding.ids) for n in range(0, len(texts), 256) for encoding in tokenizer.encode_batch(texts[n : n + 256])
    )
    return tokens / (time.perf_counter() - begun)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, default=2.0)
    parser.add_argument("--tokenizer", default="bpe:8192")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder, corpus = Path(place), Path(place, "corpus.jsonl")
        write_corpus(corpus, args.gigabytes)
        wanted = str(int(args.gigabytes * 1e9 * (0.9 if args.tokenizer == "bytes" else 0.2)))
        call = [sys.executable, "-c", PREPARE]
        rest = [str(corpus), args.tokenizer, wanted]
        told = subprocess.run([*call, str(folder / "a"), *rest], capture_output=True, text=True, check=True).stdout
        tokens, seconds, peak = map(float, told.split())
        print(f"{tokens:,.0f} tokens in {seconds:.0f} s, {tokens / seconds:,.0f} a second, peak {peak:.0f} MB")
        store = TokenStore.open(Folder(folder / "a"))
        if args.tokenizer != "bytes":
            print(f"bare encode_batch: {bare(corpus, store):,.0f} tokens a second")
        process = subprocess.Popen([*call, str(folder / "b"), *rest], stdout=subprocess.DEVNULL)
        half = len(store.manifest.train.shards) // 2
        while len(list((folder / "b").glob("train-*"))) < half:
            time.sleep(0.1)
        process.kill()
        process.wait()
        subprocess.run([*call, str(folder / "b"), *rest], stdout=subprocess.DEVNULL, check=True)
        same = TokenStore.open(Folder(folder / "b")).manifest == store.manifest
        print(f"killed at {half} shards and continued: {'the same store' if same else 'ANOTHER STORE'}")
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
