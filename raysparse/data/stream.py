"""Data sets of the Hugging Face hub, or local files through its library, read as they arrive.

The documents of a stream keep their order and are not cut; each one's side is told by its own hash
(of its group, where there are groups), so identical texts stand on one side, and kept are all. What
is left out is counted as far as the stream was read.

Left out: near-duplicates, and finding out how long a stream is.
"""

from __future__ import annotations

import glob
import hashlib
from collections.abc import Iterator
from functools import cached_property
from typing import Any

from raysparse.data import places
from raysparse.data.forms import documents_of
from raysparse.data.passage import Passage, Policy
from raysparse.data.reader import Document, Reader
from raysparse.data.split import MEET, REACH, digest, is_held_out, normal
from raysparse.data.tally import Tally
from raysparse.reading import ReadingSpec

# Builders of `datasets` for local files: those with text in them, and the others, which have none.
BUILDERS = ("json", "parquet", "text", "csv", "arrow")
WITHOUT_TEXT = ("imagefolder", "audiofolder", "videofolder", "pdffolder", "niftifolder", "meshfolder", "webdataset",
                "pandas", "xml", "hdf5", "lance", "eval", "spark", "sql", "generator", "cache")  # fmt: skip


class StreamCorpus:
    """ "hf:NAME[:CONFIG[:SPLIT]]", or "hf:json:FILES" for local files.

    The network is reached at the first use of `fingerprint` or `passages`. Raises ValueError for a
    name of another form, for local files that do not exist, and when the dataset does not exist or
    has no text field; ConnectionError when it cannot be reached.
    """

    finite = False

    def __init__(self, name: str, reading: ReadingSpec | None = None, policy: Policy | None = None):
        self.name = name
        self.reading = reading or ReadingSpec()
        self.tally = self._before = Tally()  # counts of the passage through the stream, begun anew by each
        self.policy = policy or Policy(MEET, near=False)
        dataset, config, split, *rest = [*name.removeprefix("hf:").split(":"), "", ""]
        if not dataset or any(rest):
            raise ValueError(f"corpus {name!r} is not of the form 'hf:NAME[:CONFIG[:SPLIT]]'")
        self._split = split or "train"
        local = dataset in BUILDERS
        if dataset in WITHOUT_TEXT:
            raise ValueError(f"corpus {name!r}: {dataset!r} reads no text; expected one of {', '.join(BUILDERS)}")
        if local and not glob.glob(config, recursive=True):
            raise ValueError(f"corpus {name!r} does not exist: no file matches {config!r}; expected hf:{dataset}:FILES")
        if local and self._split != "train":
            raise ValueError(f"corpus {name!r}: local files have no split {split!r}; leave it out")
        self._arguments: dict[str, Any] = {"path": dataset, "data_files" if local else "name": config or None}
        if self.reading.near_duplicates == "on":
            raise ValueError("near-duplicates of a stream cannot be looked for; use files, or --near-duplicates off")

    @cached_property
    def _builder(self) -> Any:
        from datasets import load_dataset_builder

        try:
            return load_dataset_builder(**self._arguments)
        except OSError as error:
            raise self._unreadable(error) from error

    def _unreadable(self, error: OSError) -> Exception:
        """What an error of the library means: only one of the disk names a file."""
        if error.filename is not None:
            return ValueError(
                f"corpus {self.name!r} cannot be read: {error}; the library keeps a copy in the folder that HF_HOME "
                f"names, which must be writable"
            )
        if isinstance(error, FileNotFoundError):
            return ValueError(f"corpus {self.name!r} does not exist: {error}; check the name, or use a local path")
        return ConnectionError(
            f"corpus {self.name!r} cannot be read: {error}; check the network, or use a local corpus"
        )

    @cached_property
    def fingerprint(self) -> str:
        """The name with the dataset's revision, and what is said of reading it; how much of the
        stream was read is in the manifest, not here.
        """
        text = f"{self.name}\n{self._builder.hash}\n{self._builder.config_id}\n{self._split}"
        if said := self.reading.identity():
            text += f"\n{sorted(said.items())}"
        if self._own:
            text += f"\n{b''.join(sorted(digest(text) for text in self._own.values())).hex()}"
        if self._own_groups:
            text += f"\n{sorted(self._own_groups)}"
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def facts(self) -> dict[str, int]:
        return dict(self.tally.counts)

    @cached_property
    def _own(self) -> dict[bytes, str]:
        """The texts that --validation holds out, by what makes texts one."""
        found: dict[bytes, str] = {}
        for document in self._own_documents:
            found.setdefault(self._key(document.text), document.text)
        return found

    @cached_property
    def _own_documents(self) -> list[Document]:
        if not self.reading.validation:
            return []
        paths = places.files_of(self.reading.validation, self._before)
        found = [document for path in paths for document in documents_of(path, self.reading, self._before)]
        if not found:
            raise ValueError(f"validation {self.reading.validation!r} is empty")
        return found

    @cached_property
    def _own_groups(self) -> set[str]:
        """What belongs to one of these is not trained on."""
        return {document.group for document in self._own_documents} - {""}

    def _key(self, text: str) -> bytes:
        return digest(text if self.policy.rule == REACH else normal(text))

    def documents(self, tally: Tally) -> Iterator[Document]:
        """All that is text, as it arrives; what is left out is counted in `tally`. Raises
        ValueError when the first record lacks a field that was asked for.
        """
        reader = Reader(self.name, self.reading, tally)
        for number, example in enumerate(self._builder.as_streaming_dataset(split=self._split), start=1):
            document = reader.record(example, number)
            if number == 1:
                reader.check_fields()
            if document is not None:
                yield document

    def passages(self) -> Iterator[Passage]:
        yield from (Passage(self._own[key], True) for key in sorted(self._own))
        self.tally = self._before.copy()
        for document in self.documents(self.tally):
            key = self._key(document.text)
            if not self._own:
                side = digest(document.group, b"group") if document.group else key
                yield Passage(document.text, is_held_out(side, self.reading.validation_share))
            elif key in self._own or document.group in self._own_groups:
                self.tally.counts["withheld"] += 1
            else:
                yield Passage(document.text, False)
