"""One corpus in every form in which people have it, for the tests of raysparse.data."""

from __future__ import annotations

import csv
import gzip
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

Writer = Callable[[Path, Sequence[str]], Path]


def _lines(name: str) -> Writer:
    def write(folder: Path, texts: Sequence[str]) -> Path:
        return _put(folder / name, "".join(json.dumps({"text": text, "id": n}) + "\n" for n, text in enumerate(texts)))

    return write


def _put(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    data = text.encode()
    if path.suffix.lower() == ".gz":
        data = gzip.compress(data)
    if path.suffix == ".zst":
        with pa.output_stream(str(path), compression="zstd") as stream:
            stream.write(data)
        return path
    path.write_bytes(data)
    return path


def array(folder: Path, texts: Sequence[str]) -> Path:
    return _put(folder / "array.json", json.dumps([{"text": text} for text in texts], indent=1))


def separated(name: str, delimiter: str) -> Writer:
    def write(folder: Path, texts: Sequence[str]) -> Path:
        with open(folder / name, "w", newline="") as file:
            rows = csv.writer(file, delimiter=delimiter)
            rows.writerows([("id", "text"), *enumerate(texts)])
        return folder / name

    return write


def parquet(folder: Path, texts: Sequence[str]) -> Path:
    pq.write_table(pa.table({"text": pa.array(texts).dictionary_encode()}), folder / "table.parquet")
    return folder / "table.parquet"


def arrow(folder: Path, texts: Sequence[str]) -> Path:
    table = pa.table({"text": pa.array(texts, pa.large_string())})
    with pa.OSFile(str(folder / "file.arrow"), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table)
    return folder / "file.arrow"


def text_folder(folder: Path, texts: Sequence[str]) -> Path:
    for n, text in enumerate(texts):
        _put(folder / "texts" / f"{n % 7}" / f"{n}.{'TXT' if n % 2 else 'md'}", text)
    return folder / "texts"


def hub_folder(folder: Path, texts: Sequence[str]) -> Path:
    """As on the hub: a card, a training part and another one, and marks of the writing program."""
    here = folder / "hub"
    (here / "data").mkdir(parents=True)
    _put(here / "README.md", "---\nlicense: mit\n---\nA card\n")
    _put(here / "dataset_infos.json", '{"default": {"features": {"text": {}}}}')
    _put(here / "_SUCCESS", "")
    pq.write_table(pa.table({"text": list(texts)}), here / "data" / "train-00000-of-00001.parquet")
    pq.write_table(pa.table({"text": ["never to be trained on"]}), here / "data" / "test-00000-of-00001.parquet")
    return here


def saved_to_disk(folder: Path, texts: Sequence[str]) -> Path:
    """As `datasets.Dataset.save_to_disk` writes it: Arrow streams, named in state.json."""
    here = folder / "saved"
    here.mkdir()
    table = pa.table({"text": list(texts)})
    shard = str(here / "data-00000-of-00001.arrow")
    with pa.OSFile(shard, "wb") as file, pa.ipc.new_stream(file, table.schema) as writer:
        writer.write_table(table)
    _put(here / "state.json", json.dumps({"_data_files": [{"filename": "data-00000-of-00001.arrow"}]}))
    _put(here / "dataset_info.json", json.dumps({"features": {"text": {"dtype": "string"}}}))
    return here


def saved_splits(folder: Path, texts: Sequence[str]) -> Path:
    """As `datasets.DatasetDict.save_to_disk` writes it: a folder a split."""
    here = folder / "splits"
    here.mkdir()
    for split, of_it in (("train", texts), ("test", ["never to be trained on"])):
        saved_to_disk(folder, of_it).rename(here / split)
    _put(here / "dataset_dict.json", json.dumps({"splits": ["train", "test"]}))
    return here


def nested(folder: Path, texts: Sequence[str]) -> Path:
    pq.write_table(pa.table({"text": [{"inner": text} for text in texts]}), folder / "nested.parquet")
    return folder / "nested.parquet"


FORMS: dict[str, Writer] = {
    "jsonl": _lines("a.jsonl"), "ndjson": _lines("a.ndjson"), "upper": _lines("A.JSONL"), "gz": _lines("a.jsonl.gz"),
    "zst": _lines("a.jsonl.zst"), "json lines": _lines("lines.json"), "array": array, "csv": separated("a.csv", ","),
    "semicolons": separated("b.CSV", ";"), "tsv": separated("a.tsv", "\t"), "parquet": parquet, "arrow": arrow,
    "text folder": text_folder, "hub folder": hub_folder, "saved": saved_to_disk,
    "saved splits": saved_splits,
}  # fmt: skip
