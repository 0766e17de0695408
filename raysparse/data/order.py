"""Which tokens a trial reads at which step: nested unique subset x epochs, as a function of (seed,
epoch, index).

There is no iterator and no state. Row r of step s is global position p = s * batch + r; p // n is
its epoch and p % n its place in that epoch's permutation of the n unique sequences, which depends
on seed and epoch alone. So a trial resumes at any step without replay, and any number of workers
that split the rows of a batch see the same batch. Each epoch visits each unique sequence once; a
batch may hold the end of one epoch and the beginning of the next.

Left out: which rows a worker takes (`train`), and devices: the arrays are numpy, int64, and belong
to the caller.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from raysparse.data.store import TokenStore
from raysparse.spec import TrialSpec


@lru_cache(maxsize=2)
def permutation(seed: int, epoch: int, sequences: int) -> np.ndarray:
    """The order of 0..sequences-1 in one epoch, int64 [sequences], read-only.

    It sorts raw Philox numbers instead of calling `Generator.permutation`: NumPy keeps a bit
    generator's stream for ever, but not what its Generator makes of it, and a trial must resume
    under another NumPy with the same order.
    """
    keys = np.random.Philox(key=np.array([seed, epoch], dtype=np.uint64)).random_raw(sequences)
    order = np.argsort(keys, kind="stable")
    order.setflags(write=False)
    return order


def check(store: TokenStore, spec: TrialSpec) -> None:
    """Raise ValueError when the store is not the trial's, has another vocabulary, or holds too few
    tokens, and when what is held out is less than one sequence.
    """
    store.check(spec.data, spec.model.vocab_size)
    if _validation_sequences(spec) < 1:
        raise ValueError(
            f"data.validation_tokens is {spec.data.validation_tokens}, less than one sequence of {spec.model.context} "
            f"tokens and its last target; raise it or shorten model.context"
        )


def _validation_sequences(spec: TrialSpec) -> int:
    return (spec.data.validation_tokens - 1) // spec.model.context


class Batches:
    """The training batches and the validation set of one trial. Raises as `check` does."""

    def __init__(self, store: TokenStore, spec: TrialSpec):
        check(store, spec)
        self.steps = spec.steps
        self.batch_sequences = spec.optimizer.batch_sequences
        self.unique_sequences = spec.unique_sequences
        self.validation_sequences = _validation_sequences(spec)
        self._store = store
        self._seed = spec.seed
        self._context = spec.model.context

    def train(self, step: int, start: int, stop: int) -> np.ndarray:
        """Rows start..stop of the global batch of a step counted from 0, int64 [stop - start,
        context + 1].

        A row is a sequence of `context` inputs and the target of the last one. Raises IndexError
        outside the run or the batch.
        """
        if not (0 <= step < self.steps and 0 <= start <= stop <= self.batch_sequences):
            raise IndexError(
                f"rows {start}..{stop} of step {step} are outside the run: {self.steps} steps of "
                f"{self.batch_sequences} sequences"
            )
        return self._rows("train", self.sequences(step * self.batch_sequences + np.arange(start, stop)))

    def sequences(self, positions: np.ndarray) -> np.ndarray:
        """The unique sequence at each global position of the run, int64 of the same shape."""
        epochs, places = np.divmod(positions, self.unique_sequences)
        found = np.empty_like(positions)
        for epoch in np.unique(epochs):
            here = epochs == epoch
            found[here] = permutation(self._seed, int(epoch), self.unique_sequences)[places[here]]
        return found

    def validation(self, start: int, stop: int) -> np.ndarray:
        """Sequences start..stop of the validation set, int64 [stop - start, context + 1]; the same
        for every trial of a store.

        Raises IndexError outside the `validation_sequences`.
        """
        if not 0 <= start <= stop <= self.validation_sequences:
            raise IndexError(f"validation sequences {start}..{stop} are outside 0..{self.validation_sequences}")
        return self._rows("validation", np.arange(start, stop))

    def unique(self, start: int, stop: int) -> np.ndarray:
        """Unique sequences start..stop in the order in which they are stored, int64 [stop - start,
        context + 1]: what is trained on, once.

        Raises IndexError outside the `unique_sequences`.
        """
        if not 0 <= start <= stop <= self.unique_sequences:
            raise IndexError(f"unique sequences {start}..{stop} are outside 0..{self.unique_sequences}")
        return self._rows("train", np.arange(start, stop))

    def _rows(self, split: str, sequences: np.ndarray) -> np.ndarray:
        return self._store.take(split, sequences[:, None] * self._context + np.arange(self._context + 1))
