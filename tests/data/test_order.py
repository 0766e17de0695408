"""Batch order: a pure function of (seed, epoch, index), nested in U, the same for any number of
workers, resumable anywhere.
"""

from __future__ import annotations

import dataclasses
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raysparse.data.order import Batches, permutation
from raysparse.data.store import TokenStore
from raysparse.spec import DataSpec, ModelSpec, OptimizerSpec, TrialSpec

MODEL = ModelSpec(hidden=8, intermediate=8, layers=1, heads=1, vocab_size=257)


def trial(
    corpus: str,
    *,
    unique: int = 2_000,
    epochs: float = 3.0,
    batch: int = 8,
    context: int = 16,
    seed: int = 0,
    validation: int = 4_000,
) -> TrialSpec:
    return TrialSpec(
        model=MODEL.replace(context=context),
        data=DataSpec(corpus=corpus, unique_tokens=unique, epochs=epochs, validation_tokens=validation),
        optimizer=OptimizerSpec(batch_sequences=batch),
        seed=seed,
    )


shapes = st.fixed_dictionaries(
    {
        "unique": st.integers(300, 40_000),
        "epochs": st.floats(1.0, 4.0),
        "batch": st.integers(1, 12),
        "context": st.integers(1, 20),
        "seed": st.integers(0, 2**31 - 1),
    }
)
few = settings(max_examples=40, deadline=None)


# The slow, plain reference: follow the definition row by row.
@given(shape=shapes, where=st.floats(0, 1, exclude_max=True))
@few
def test_a_batch_is_what_the_definition_says(
    store: TokenStore, corpus: str, shape: dict[str, int], where: float
) -> None:
    spec = trial(corpus, **shape)
    step = int(where * spec.steps)
    stream = np.concatenate(store.shards("train")).tolist()
    expected = []
    for row in range(spec.optimizer.batch_sequences):
        epoch, place = divmod(step * spec.optimizer.batch_sequences + row, spec.unique_sequences)
        first = int(permutation(spec.seed, epoch, spec.unique_sequences)[place]) * spec.model.context
        expected.append(stream[first : first + spec.model.context + 1])
    found = Batches(store, spec).train(step, 0, spec.optimizer.batch_sequences)
    assert found.dtype == np.int64
    assert found.tolist() == expected


@given(shape=shapes)
@few
def test_every_epoch_visits_each_sequence_once(store: TokenStore, corpus: str, shape: dict[str, int]) -> None:
    spec = trial(corpus, **shape)
    visited = Batches(store, spec).sequences(np.arange(3 * spec.unique_sequences)).reshape(3, -1)
    assert (np.sort(visited, axis=1) == np.arange(spec.unique_sequences)).all()


@given(shape=shapes, cuts=st.lists(st.integers(0, 12), max_size=4), where=st.floats(0, 1, exclude_max=True))
@few
def test_the_workers_rows_put_together_are_the_batch(
    store: TokenStore, corpus: str, shape: dict[str, int], cuts: list[int], where: float
) -> None:
    spec = trial(corpus, **shape)
    step, rows = int(where * spec.steps), spec.optimizer.batch_sequences
    bounds = [0, *sorted(min(cut, rows) for cut in cuts), rows]
    parts = [Batches(store, spec).train(step, a, b) for a, b in pairwise(bounds)]
    assert np.array_equal(np.concatenate(parts), Batches(store, spec).train(step, 0, rows))


@given(shape=shapes, order=st.randoms(use_true_random=False))
@few
def test_steps_may_be_asked_for_in_any_order(
    store: TokenStore, corpus: str, shape: dict[str, int], order: object
) -> None:
    spec = trial(corpus, **shape)
    steps = sorted({0, spec.steps // 3, spec.steps // 2, spec.steps - 1})
    forward = {step: Batches(store, spec).train(step, 0, 1).tolist() for step in steps}
    same = Batches(store, spec)
    assert forward == {step: same.train(step, 0, 1).tolist() for step in reversed(steps)}


@given(
    context=st.integers(1, 20),
    budgets=st.tuples(st.integers(21, 5_000), st.integers(21, 5_000)),
    seed=st.integers(0, 9),
)
@few
def test_fewer_unique_tokens_are_a_prefix_of_more(
    store: TokenStore, corpus: str, context: int, budgets: tuple[int, int], seed: int
) -> None:
    def epoch(unique: int) -> list[list[int]]:
        """All sequences of one epoch in the order of the stream."""
        size = (unique - 1) // context
        batches = Batches(store, trial(corpus, unique=unique, epochs=1, batch=size, context=context, seed=seed))
        return batches.train(0, 0, size)[np.argsort(batches.sequences(np.arange(size)))].tolist()  # type: ignore[no-any-return]

    small, large = (epoch(unique) for unique in sorted(budgets))
    assert large[: len(small)] == small


def test_a_batch_may_end_one_epoch_and_begin_the_next(store: TokenStore, corpus: str) -> None:
    spec = trial(corpus, unique=10 * 16 + 1, epochs=4, batch=8)
    assert spec.unique_sequences == 10
    order = Batches(store, spec).sequences(np.arange(8, 16))
    assert order.tolist() == [*permutation(0, 0, 10)[8:], *permutation(0, 1, 10)[:6]]


def test_a_batch_may_be_larger_than_an_epoch(store: TokenStore, corpus: str) -> None:
    spec = trial(corpus, unique=3 * 16 + 1, epochs=4, batch=10)
    assert Batches(store, spec).train(0, 0, 10).shape == (10, 17)


# Golden: resuming under another NumPy, or another version of this file, must find the same order.
def test_the_order_is_pinned() -> None:
    assert permutation(0, 0, 8).tolist() == [0, 2, 1, 5, 4, 3, 6, 7]
    assert permutation(0, 1, 8).tolist() == [5, 3, 7, 2, 4, 1, 0, 6]
    assert permutation(1, 0, 8).tolist() == [3, 5, 2, 7, 0, 6, 1, 4]


def test_validation_is_the_same_for_every_trial(store: TokenStore, corpus: str) -> None:
    one = Batches(store, trial(corpus, unique=500, seed=1, epochs=1))
    other = Batches(store, trial(corpus, unique=30_000, seed=2, epochs=2))
    assert one.validation_sequences == 3_999 // 16
    assert np.array_equal(one.validation(0, 249), other.validation(0, 249))
    stream = np.concatenate(store.shards("validation"))
    assert one.validation(3, 5).tolist() == [stream[48:65].tolist(), stream[64:81].tolist()]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"unique": 10**7},
            r"data.unique_tokens 10000000 is larger than the token store: .* lower it or prepare more tokens",
        ),
        ({"validation": 10**6}, "data.validation_tokens 1000000 is larger than"),
        ({"validation": 16}, "data.validation_tokens is 16, less than one sequence of 16 tokens and its last target"),
    ],
)
def test_a_trial_that_the_store_cannot_serve(
    store: TokenStore, corpus: str, changes: dict[str, int], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        Batches(store, trial(corpus, **changes))


def test_another_vocabulary_corpus_or_tokenizer(store: TokenStore, corpus: str) -> None:
    spec = trial(corpus)
    with pytest.raises(
        ValueError, match=r"model\.vocab_size is 300, but the token store .* 257 ids; set model\.vocab_size to 257"
    ):
        Batches(store, spec.replace(model=spec.model.replace(vocab_size=300)))
    for change in ({"corpus": "python"}, {"tokenizer": "bpe:300"}):
        (what,) = change
        with pytest.raises(ValueError, match=rf"the token store in .* holds {what} .*, not '{change[what]}'"):
            Batches(store, spec.replace(data=dataclasses.replace(spec.data, **change)))


def test_rows_outside_the_run(store: TokenStore, corpus: str) -> None:
    batches = Batches(store, trial(corpus))
    for step, start, stop in ((batches.steps, 0, 1), (-1, 0, 1), (0, 0, 9), (0, 3, 2)):
        with pytest.raises(IndexError, match="are outside the run"):
            batches.train(step, start, stop)
    with pytest.raises(IndexError, match="validation sequences"):
        batches.validation(0, batches.validation_sequences + 1)
