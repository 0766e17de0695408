"""How far a preparation came, kept beside its shards, so that one that was killed goes on.

Written after every shard: how many batches of passages were packed, what each split holds, and the
tokens that no shard holds yet. Passages come in a fixed order and a tokenizer is a pure function,
so going on gives the same store, bit for bit. What was asked (corpus, tokenizer, targets) is part
of it: another question begins anew. Left out: a preparation that fails, which withdraws what it
wrote.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from raysparse.files import Folder

PROGRESS = "progress.json"


@dataclass(frozen=True)
class Unfinished:
    """batches: packed already. splits: name -> (what its writer keeps, its tokens without a
    shard).
    """

    batches: int
    splits: dict[str, tuple[dict[str, Any], np.ndarray]]

    def save(self, folder: Folder, asked: dict[str, Any]) -> list[str]:
        """Write it; returns the names of the files that it consists of."""
        names = {split: f"pending-{split}-{self.batches}.npy" for split in self.splits}
        for split, (_, tokens) in self.splits.items():
            folder.write(names[split], tokens.tobytes())
        kept = {split: {**state, "pending": names[split], "dtype": tokens.dtype.name}
                for split, (state, tokens) in self.splits.items()}  # fmt: skip
        before = _files(folder)
        folder.write_json(PROGRESS, {"asked": asked, "batches": self.batches, "splits": kept})
        for name in set(before) - set(names.values()) - {PROGRESS}:
            folder.delete(name)
        return [*names.values(), PROGRESS]

    @staticmethod
    def read(folder: Folder, asked: dict[str, Any]) -> Unfinished | None:
        """What an earlier preparation of the same left behind; None when there is nothing, or when
        another process ended it meanwhile.
        """
        try:
            values = folder.read_json(PROGRESS)
            if values["asked"] != asked:
                return None
            splits = {}
            for split, state in values["splits"].items():
                tokens = np.frombuffer(folder.read(state.pop("pending")), dtype=state.pop("dtype"))
                if not all(folder.exists(shard["name"]) for shard in state["shards"]):
                    return None
                splits[split] = state, tokens
        except FileNotFoundError:
            return None
        return Unfinished(values["batches"], splits)

    @staticmethod
    def forget(folder: Folder) -> None:
        """Delete what was kept."""
        for name in _files(folder):
            folder.delete(name)


def _files(folder: Folder) -> list[str]:
    """The files of an unfinished preparation, progress.json first."""
    try:
        return [PROGRESS, *(state["pending"] for state in folder.read_json(PROGRESS)["splits"].values())]
    except FileNotFoundError:  # there is none, or another process has just ended it
        return []
