"""Corpora by name or path: where documents come from, which are held out for validation, and in
what order they are read.

Both questions are answered by hashes of the text, never by file order, dates or a random generator.
Held out are the documents with the smallest hashes of their whole text, so no choice of unique
tokens, seed or size can move one into training. The documents of a finite corpus are cut at line
ends into passages of about a page, ordered by the hash of the passage, so that every prefix of the
stream is a random sample of the whole corpus: the files of a source tree differ in length by a
factor of 10,000, and without the cut a small token budget would be three files. A held-out document
is held out with all its passages, and identical documents and passages are kept once, so validation
and training share nothing.

Left out: near-duplicates (only identical text is found), and finite corpora larger than memory:
stream those with `hf:json:FILES`. A stream is read in the order it arrives in, uncut; identical
documents in it are kept, on the same side.
"""

from __future__ import annotations

import glob
import hashlib
import json
import os
import sysconfig
import tokenize
from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, Protocol

VALIDATION_SHARE = 0.05  # of the characters of a finite corpus; of the documents of a stream
PASSAGE_CHARACTERS = (
    4096  # 16 contexts of 256 bytes, or 4 of 256 BPE tokens; a validation set of 64 Ki bytes has 16 or more
)
STREAM_BUILDERS = (
    "json",
    "parquet",
    "text",
)  # of `datasets`, for hf:json:FILES; the other names are looked up on the hub
DIGEST_BYTES = 16


class Passage(NamedTuple):
    """A piece of text that is packed as a whole, and whether its document is held out for
    validation.
    """

    text: str
    held_out: bool


class Corpus(Protocol):
    """Documents in a deterministic order.

    finite: whether `fingerprint` is a hash of the documents (cheap to check again) or names a
    stream and its revision.
    """

    name: str
    finite: bool

    @property
    def fingerprint(self) -> str: ...

    @property
    def facts(self) -> dict[str, int]:
        """What a reader of the manifest wants to know: documents, and how many were skipped or
        dropped as duplicates.
        """
        ...

    def passages(self) -> Iterator[Passage]: ...


def open_corpus(name: str) -> Corpus:
    """The corpus called `name`: "python", "python+packages", a file, folder or glob, or
    "hf:NAME[:CONFIG[:SPLIT]]".

    A finite corpus is read here, a stream is not touched before its first use. Raises ValueError
    when there is no such corpus, when it is empty, or when a file has no text field.
    """
    if name.startswith("hf:"):
        return StreamCorpus(name)
    return FiniteCorpus(name, corpus_files(name))


def corpus_files(name: str) -> list[Path]:
    """The files of a finite corpus, sorted. Raises ValueError when there is none."""
    if name in ("python", "python+packages"):
        kinds = ("stdlib",) if name == "python" else ("stdlib", "purelib", "platlib")
        roots = {Path(sysconfig.get_path(kind)).resolve() for kind in kinds}
        return sorted({path for root in roots for path in python_files(root)})
    path = Path(name).expanduser()
    if path.is_file():
        return [path]
    if path.is_dir():
        found = [p for p in path.rglob("*") if not any(part.startswith(".") for part in p.relative_to(path).parts)]
    else:
        found = [Path(match) for match in glob.glob(str(path), recursive=True)]
    files = sorted(p for p in found if p.is_file())
    if not files:
        raise ValueError(
            f"corpus {name!r} is not a name we know and no file, folder or glob matches it; expected 'python', "
            f"'python+packages', 'hf:NAME[:CONFIG[:SPLIT]]', or a path to text, .jsonl or .parquet files"
        )
    return files


def python_files(root: Path) -> Iterator[Path]:
    """Python sources under `root`, without the packages that are installed inside a standard
    library.
    """
    for path, folders, names in os.walk(root):
        if Path(path) == root:
            folders[:] = [f for f in folders if f not in ("site-packages", "dist-packages")]
        yield from (Path(path, name) for name in names if name.endswith(".py"))


def read_documents(path: Path) -> Iterator[str]:
    """The documents of one file: each line of .jsonl and each row of .parquet is one, any other
    file is one as a whole.

    Raises ValueError for a line or table without text, UnicodeDecodeError or SyntaxError for a file
    that is not text.
    """
    if path.suffix == ".jsonl":
        yield from _read_jsonl(path)
    elif path.suffix == ".parquet":
        yield from _read_parquet(path)
    else:
        # tokenize.open obeys a source file's own declaration of its encoding.
        with tokenize.open(path) if path.suffix == ".py" else open(path, encoding="utf-8-sig") as file:
            yield file.read()


def _read_jsonl(path: Path) -> Iterator[str]:
    with open(path, "rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                example = json.loads(line)
            except ValueError as error:
                raise ValueError(f"{path} line {number} is not JSON: {error}") from error
            text = example.get("text") if isinstance(example, dict) else None
            if not isinstance(text, str):
                raise ValueError(
                    f"{path} line {number} has no text; expected an object with a string in its field 'text'"
                )
            yield text.encode(errors="replace").decode()  # JSON can spell half a surrogate pair, which is no character


def _read_parquet(path: Path) -> Iterator[str]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(path)
    except pa.ArrowInvalid as error:
        raise ValueError(f"{path} is not a Parquet file: {error}") from error
    with file:
        schema = file.schema_arrow
        if "text" not in schema.names or schema.field("text").type not in (
            pa.string(),
            pa.large_string(),
            pa.string_view(),
        ):
            raise ValueError(f"{path} has no column 'text' of strings; its columns are {', '.join(schema.names)}")
        for batch in file.iter_batches(columns=["text"]):
            yield from (text for text in batch.column(0).to_pylist() if text is not None)


def digest(text: str, purpose: bytes = b"document") -> bytes:
    """A hash of the text; hashes for different purposes are independent of each other."""
    return hashlib.blake2b(text.encode(), digest_size=DIGEST_BYTES, person=purpose).digest()


def held_out_documents(documents: dict[bytes, str]) -> set[bytes]:
    """The documents (by digest) with the smallest digests, as many as hold VALIDATION_SHARE of all
    characters; one or more.

    Counting characters, not documents, gives a corpus of thirty files a validation set that is
    worth its name.
    """
    wanted = VALIDATION_SHARE * sum(map(len, documents.values()))
    found: set[bytes] = set()
    for document in sorted(documents):
        if wanted <= 0:
            break
        found.add(document)
        wanted -= len(documents[document])
    return found


def is_held_out(document: bytes) -> bool:
    """The same for a stream, whose length nobody knows: whether this digest is among the lowest
    VALIDATION_SHARE of all digests.
    """
    return int.from_bytes(document[:8], "big") < VALIDATION_SHARE * 2**64


def cut(text: str) -> Iterator[str]:
    """The text in pieces of at most PASSAGE_CHARACTERS, at line ends where there are any."""
    start = 0
    while start < len(text):
        limit = start + PASSAGE_CHARACTERS
        stop = (text.rfind("\n", start, limit) + 1 if limit < len(text) else 0) or limit
        yield text[start:stop]
        start = stop


class FiniteCorpus:
    """Documents from files, held in memory. Files that are not text and blank documents are skipped
    and counted.

    When there is only one document, its passages are the documents, so that a single book can be
    trained and validated on. Raises ValueError when there is no document.
    """

    finite = True

    def __init__(self, name: str, files: Iterable[Path]):
        self.name = name
        documents: dict[bytes, str] = {}
        read = skipped = 0
        for path in files:
            try:
                texts = list(read_documents(path))
            except (UnicodeDecodeError, SyntaxError):
                texts = [""]
            for text in texts:
                read += 1
                if text.strip():
                    documents[digest(text)] = text
                else:
                    skipped += 1
        if not documents:
            raise ValueError(
                f"corpus {name!r} is empty: {skipped} of {read} documents were skipped as blank or not text"
            )
        self.fingerprint = hashlib.sha256(b"".join(sorted(documents))).hexdigest()
        duplicates = read - skipped - len(documents)
        self.facts = {"documents": len(documents), "skipped": skipped, "duplicates": duplicates}
        if len(documents) == 1:
            documents = {digest(piece): piece for text in documents.values() for piece in cut(text)}
        self._passages = ordered_passages(documents)

    def passages(self) -> Iterator[Passage]:
        return iter(self._passages)


def ordered_passages(documents: dict[bytes, str]) -> list[Passage]:
    """The passages of documents (by digest) in the order of their hash, each text once.

    Held-out documents have the smallest digests and come first here, so a passage that also occurs
    in training documents is kept for validation and never trained on.
    """
    held_out = held_out_documents(documents)
    found: dict[bytes, Passage] = {}
    for document in sorted(documents):
        for text in cut(documents[document]):
            found.setdefault(digest(text, b"order"), Passage(text, document in held_out))
    return [found[key] for key in sorted(found)]


class StreamCorpus:
    """A Hugging Face dataset, read as it arrives: "hf:NAME[:CONFIG[:SPLIT]]", or "hf:json:FILES"
    for local files.

    The network is reached at the first use of `fingerprint` or `passages`. Raises ValueError when
    the dataset does not exist or has no field "text", ConnectionError when it cannot be reached.
    """

    finite = False

    def __init__(self, name: str):
        self.name = name
        self.facts: dict[str, int] = {}
        dataset, config, split, *rest = [*name.removeprefix("hf:").split(":"), "", ""]
        if not dataset or any(rest):
            raise ValueError(f"corpus {name!r} is not of the form 'hf:NAME[:CONFIG[:SPLIT]]'")
        self._split = split or "train"
        local = dataset in STREAM_BUILDERS
        self._arguments: dict[str, Any] = {"path": dataset, "data_files" if local else "name": config or None}

    @cached_property
    def _builder(self) -> Any:
        from datasets import load_dataset_builder

        try:
            return load_dataset_builder(**self._arguments)
        except FileNotFoundError as error:
            raise ValueError(
                f"corpus {self.name!r} does not exist: {error}; check the name, or use a local path"
            ) from error
        except OSError as error:
            raise ConnectionError(
                f"corpus {self.name!r} cannot be read: {error}; check the network, or use a local corpus"
            ) from error

    @property
    def fingerprint(self) -> str:
        """The name with the dataset's revision; how much of the stream was read is in the manifest,
        not here.
        """
        text = f"{self.name}\n{self._builder.hash}\n{self._builder.config_id}\n{self._split}"
        return hashlib.sha256(text.encode()).hexdigest()

    def passages(self) -> Iterator[Passage]:
        for example in self._builder.as_streaming_dataset(split=self._split):
            text = example.get("text")
            if not isinstance(text, str):
                raise ValueError(
                    f"corpus {self.name!r} has no field 'text' of strings; its fields are {', '.join(example)}"
                )
            if text.strip():
                yield Passage(text, is_held_out(digest(text)))
