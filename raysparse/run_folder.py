"""The run folder: the documented contract (docs/run-folder.md) as one class, so that no other file
spells a path of it.

A sweep lives in `<storage>/<name>/`; token stores lie beside it, shared by all runs of the storage.
What the files mean stands with those who write them.
"""

from __future__ import annotations

import re

from raysparse.files import Folder, checksum
from raysparse.reading import ReadingSpec

PLAN = "plan.json"
LEDGER = "ledger.json"
LOCK = "driver.lock"
TABLE = "results.parquet"
STUDY = "study.journal"
ENSEMBLES = "ensembles.json"
JOURNAL = "journal"
TRIALS = "trials"
TOKENS = "tokens"
REPORT = "report"
RAY = "ray"
MODEL_SUFFIX = "-model"  # <name>-model is the run folder in which what <name> recommends is trained

# Of one trial.
SPEC = "spec.json"
METRICS = "metrics.jsonl"
FAILURE = "failure.txt"
CHECKPOINT = "checkpoint"
LATEST = f"{CHECKPOINT}/latest.json"
TENSORBOARD = "tensorboard"
START = "start.pt"  # the weights that a trial with a parent begins with


def store_name(corpus: str, tokenizer: str, reading: ReadingSpec) -> str:
    """A folder name for this corpus, tokenizer and way to read: readable at the front, unique at
    the end.
    """
    readable = re.sub(r"[^A-Za-z0-9]+", "-", f"{corpus}-{tokenizer}").strip("-")[-40:]
    said = "".join(f" {name}={value}" for name, value in sorted(reading.identity().items()))
    return f"{readable}-{checksum(f'{corpus} {tokenizer}{said}'.encode())[:8]}"


class RunFolder(Folder):
    """A folder of one sweep. Everything of it is found by name here.

    Raises ValueError for a name that is empty, is a path, or is taken by the storage itself.
    """

    @classmethod
    def named(cls, storage: Folder, name: str) -> RunFolder:
        """The run folder `name` in a storage."""
        if not re.fullmatch(r"[^/\\]+", name) or name in (".", "..", TOKENS):
            expected = f"a plain folder name other than {TOKENS!r}; it lies in --storage"
            raise ValueError(f"--name is {name!r}, expected {expected}")
        return cls(storage.at(name))

    @property
    def storage(self) -> Folder:
        return self.parent

    def trial(self, trial_id: str) -> Folder:
        """Where a trial keeps its files."""
        return self.child(TRIALS, trial_id)

    def tokens(self, corpus: str, tokenizer: str, reading: ReadingSpec | None = None) -> Folder:
        """The token store of a corpus; every run of the storage shares it."""
        return self.storage.child(TOKENS, store_name(corpus, tokenizer, reading or ReadingSpec()))

    @property
    def report(self) -> Folder:
        return self.child(REPORT)

    @property
    def ray(self) -> str:
        """Where Ray keeps its own records of a run; nothing of it is needed to continue."""
        return str(self.local_path / RAY) if self.is_local else self.child(RAY).uri

    def checkpoint_step(self, trial_id: str) -> int:
        """The step from which a trial would continue; 0 when it would begin anew."""
        latest = self.trial(trial_id).read_json_if_there(LATEST)
        return int(latest["step"]) if latest is not None else 0

    def begun(self) -> set[str]:
        """Ids of the trials that have a folder: a thousand in one request to an object store."""
        return set(self.names(TRIALS))
