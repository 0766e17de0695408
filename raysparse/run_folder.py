"""The run folder: the documented contract (docs/run-folder.md) as one class, so that no other file
spells a path of it.

A sweep lives in `<storage>/<name>/`; token stores lie beside it, shared by all runs of the storage.
What the files mean stands with those who write them.
"""

from __future__ import annotations

import contextlib
import re
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raysparse.files import Folder, checksum, default_cache
from raysparse.location import s3_settings
from raysparse.reading import ReadingSpec
from raysparse.spec import TrialSpec

PLAN = "plan.json"
LEDGER = "ledger.json"
LOCK = "driver.lock"
BOOKS_LOCK = "books.lock"
TABLE = "results.parquet"
STUDY = "study.journal"
ENSEMBLES = "ensembles.json"
JOURNAL = "journal"
TRIALS = "trials"
TOKENS = "tokens"
CURVES = "curves"
REPORT = "report"
ANSWER = "answer.txt"  # of the report; not there while its table grows
ANALYSIS = "analysis.json"  # which code wrote the report
RAY = "ray"
LABEL = 200  # bytes of a name that a link takes; a file's name has 255
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


@dataclass(frozen=True)
class Reached:
    """How far a trial is by its checkpoint."""

    step: int = 0  # to which it was trained
    start: int = 0  # after which it would continue; 0 when it would begin anew
    epoch: int = 0  # of the lease that wrote it


def can_go_on(about: Mapping[str, Any], spec: TrialSpec) -> bool:
    """Whether a trial can continue from a checkpoint, by its latest.json: a trial that ended early
    and kept its weights alone starts over.
    """
    return about.get("keeps") != "weights" or about["step"] >= spec.steps


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

    def name_curves(self, trial_id: str, name: str) -> None:
        """Show the curves of a trial under a name for people: TensorBoard names what it finds by
        its path under --logdir. A link, so nothing on an object store.
        """
        if self.is_local:
            label = re.sub(r"[/]", "-", name).encode()[:LABEL].decode(errors="ignore")
            link = self.local_path / CURVES / f"{label} {trial_id[:6]}".strip()
            link.parent.mkdir(parents=True, exist_ok=True)
            with contextlib.suppress(FileExistsError):  # an earlier attempt made it
                link.symlink_to(Path("..", TRIALS, trial_id, TENSORBOARD))

    @property
    def logdir(self) -> str:
        """What TensorBoard is pointed at."""
        return str(self.local_path / CURVES) if self.is_local else self.location.child(TRIALS).path

    @property
    def curves_command(self) -> str:
        """The command that shows the curves. TensorBoard reads s3:// through boto3, and takes the
        endpoint from a variable and not from the URI.
        """
        said = s3_settings(self.location.query)
        names = {"region": "AWS_DEFAULT_REGION", "tls_ca_file_path": "AWS_CA_BUNDLE"}
        words = [f"{name}={said[field]}" for field, name in names.items() if field in said]
        if host := said.get("endpoint_override"):
            words.append(f"S3_ENDPOINT={host if '://' in host else said.get('scheme', 'https') + '://' + host}")
        return " ".join([*words, f"tensorboard --logdir {shlex.quote(self.logdir)}"])

    def tokens(self, corpus: str, tokenizer: str, reading: ReadingSpec | None = None) -> Folder:
        """The token store of a corpus; every run of the storage shares it."""
        return self.storage.child(TOKENS, store_name(corpus, tokenizer, reading or ReadingSpec()))

    @property
    def report(self) -> Folder:
        return self.child(REPORT)

    @property
    def ray(self) -> str:
        """Where Ray keeps its own records of a run, which nothing needs afterwards: for an
        object store on each machine, since they are dozens of requests a trial.
        """
        return str(self.local_path / RAY if self.is_local else default_cache() / RAY / checksum(self.uri.encode())[:16])

    def reached(self, spec: TrialSpec) -> Reached:
        """What the checkpoint of a trial says; zeros when there is none."""
        about = self.trial(spec.trial_id).read_json_if_there(LATEST) or {}
        step = int(about.get("step", 0))
        return Reached(step, step if can_go_on(about, spec) else 0, int(about.get("epoch", 0)))

    def all_reached(self, specs: Iterable[TrialSpec]) -> dict[str, Reached]:
        """`reached` of those of the trials that have begun, by trial id."""
        wanted = {spec.trial_id: spec for spec in specs}
        begun = sorted(self.begun() & set(wanted)) if wanted else []
        return dict(zip(begun, self.each(self.reached, [wanted[trial_id] for trial_id in begun]), strict=True))

    def begun(self) -> set[str]:
        """Ids of the trials that have a folder: a thousand in one request to an object store."""
        return set(self.names(TRIALS))
