"""Two ranks over gloo, as real processes: the same topology, the same losses to rounding, and exact
resumption.
"""

from datetime import timedelta
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from raysparse.data.store import TokenStore
from raysparse.files import Folder
from raysparse.placement import Placement
from raysparse.train import ranks, reduce, trial
from raysparse.train.hooks import Hook, Progress, StopTrial
from tests.conftest import small_trial
from tests.train import test_recompute
from tests.train.test_trial import BREAKS, EVERY_STEP, WHOLE_STATE, Interrupt, assert_same, final_state

CASES = {method: small_trial(method) for method in ("dense", "static", "set", "rigl", "smet", "smet_grad")}
CASES["dropout-average"] = small_trial(optimizer={"dropout": 0.2, "average": 0.2, "weight_decay": 1.0})
# All methods are resumed by one rank (`test_trial`); what ranks add is who writes and who reads.
RESUMED = ("dense", "smet_grad", "dropout-average")


class RecordTopology(Hook):
    """Keeps every layout that a run had, to be compared with another run's."""

    def __init__(self):
        self.seen = []

    def after_step(self, state, record):
        if state.last_change is not None:
            self.seen.append({n: m.layout.mask.clone() for n, m in state.weights.matrices.items()})


def work(rank: int, folder: Path, tokens: str) -> None:
    """What each of the two processes does; results are left in files."""
    torch.set_num_threads(1)
    ranks.join("gloo", f"file://{folder}/rendezvous", rank, 2, timedelta(minutes=10))
    store = TokenStore.open(Folder(tokens))
    for case, spec in CASES.items():
        record = RecordTopology()
        trial.run(spec, store, Folder(folder / case / "whole"), hooks=[record], placement=WHOLE_STATE)
        torch.save(record.seen, folder / case / f"topologies-{rank}.pt")
        if case not in RESUMED:
            continue
        for step in BREAKS.values():
            with pytest.raises(KeyboardInterrupt):
                trial.run(spec, store, Folder(folder / case / "broken"), hooks=[Interrupt(step)], placement=EVERY_STEP)
            dist.barrier()  # rank 0 has written its checkpoint before the other reads it
        trial.run(spec, store, Folder(folder / case / "broken"), placement=Placement(recompute="layer", keep="state"))
    _stop_one_rank(rank, store, folder)
    _spoil_one_rank(rank, store, folder)
    _make_activations_again(rank, folder)
    _reduce_in_small_buckets(rank, store, folder)
    dist.destroy_process_group()
    assert not [name for name in thread_names() if "gloo" in name]  # the group has ended with its threads


def thread_names() -> list[str]:
    """Of this process, also those that Python does not know."""
    return [(task / "comm").read_text().strip() for task in Path("/proc/self/task").iterdir()]


def _stop_one_rank(rank: int, store: TokenStore, folder: Path) -> None:
    """Only rank 0's callback is asked; both ranks must end, at the same step."""

    def stop(news):
        raise StopTrial("enough")

    outcome = trial.run(small_trial(), store, Folder(folder / "stopped"), hooks=[Progress(stop)])
    torch.save((outcome.status, outcome.steps), folder / f"stopped-{rank}.pt")


class Spoil(Hook):
    """Swaps two words of one rank's first mask, as broken memory might."""

    def after_step(self, state, record):
        mask = next(iter(state.weights.matrices.values())).layout.mask
        mask.copy_(mask.flip(0))


def _spoil_one_rank(rank: int, store: TokenStore, folder: Path) -> None:
    with pytest.raises(RuntimeError, match="ranks disagree about the topology after step 8"):
        trial.run(small_trial(), store, Folder(folder / f"spoilt-{rank}"), hooks=[Spoil()] if rank else [])


def _make_activations_again(rank: int, folder: Path) -> None:
    """Every method and layout, over a topology update and the step after it."""
    for name, spec in test_recompute.CASES.items():
        found = {way: list(test_recompute.after_steps(spec, way, steps=9)) for way in ("none", *test_recompute.WAYS)}
        torch.save(found, folder / f"again-{name}-{rank}.pt")


def _reduce_in_small_buckets(rank: int, store: TokenStore, folder: Path) -> None:
    """Every matrix its own bucket, micro-batches of one sequence, and a batch of one sequence,
    which leaves rank 0 without rows.
    """
    reduce.BUCKET_BYTES = 1
    for name, sequences in (("many", 4), ("one", 1)):
        spec = small_trial("smet_grad", data={"epochs": 0.5}, optimizer={"batch_sequences": sequences})
        trial.run(spec, store, Folder(folder / name), placement=Placement(micro_batch=1))


@pytest.fixture(scope="module")
def two_ranks(store, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("two-ranks")
    mp.spawn(work, (folder, store.folder.uri), nprocs=2)
    return folder


@pytest.mark.parametrize("case", RESUMED)
def test_interrupted_and_resumed_equals_uninterrupted(case, two_ranks):
    assert_same(final_state(Folder(two_ranks / case / "broken")), final_state(Folder(two_ranks / case / "whole")))


@pytest.mark.parametrize("case", CASES)
def test_both_ranks_have_the_same_topology_at_every_update(case, two_ranks):
    one, two = (torch.load(two_ranks / case / f"topologies-{rank}.pt") for rank in range(2))
    assert len(one) == (5 if case not in ("dense", "static") else 0)
    assert_same(one, two)


@pytest.mark.parametrize("case", CASES)
def test_two_ranks_agree_with_one_to_rounding(case, two_ranks, store, tmp_path):
    """The same global batch, summed in another order. Topologies are equal, so nothing but rounding
    tells the runs apart.
    """
    record = RecordTopology()
    alone = trial.run(CASES[case], store, Folder(tmp_path), hooks=[record])
    assert_same(record.seen, torch.load(two_ranks / case / "topologies-0.pt"))
    together = final_state(Folder(two_ranks / case / "whole"))
    for one, two in zip(alone.evaluations, together["evaluations"], strict=True):
        assert two["loss"] == pytest.approx(one.loss, rel=1e-4)
        if CASES[case].optimizer.average:
            assert two["average_loss"] == pytest.approx(one.average_loss, rel=1e-4)


@pytest.mark.parametrize("name", test_recompute.CASES)
def test_recomputation_changes_no_bit_on_two_ranks(name, two_ranks):
    for rank in range(2):
        found = torch.load(two_ranks / f"again-{name}-{rank}.pt")
        for way in test_recompute.WAYS:
            assert_same(found[way], found["none"])


def test_a_wish_to_stop_reaches_every_rank_at_the_same_step(two_ranks):
    assert [torch.load(two_ranks / f"stopped-{rank}.pt") for rank in range(2)] == [("pruned", 10), ("pruned", 10)]


@pytest.mark.parametrize(("name", "sequences"), [("many", 4), ("one", 1)])
def test_buckets_and_micro_batches_change_only_the_rounding(name, sequences, two_ranks, store, tmp_path):
    spec = small_trial("smet_grad", data={"epochs": 0.5}, optimizer={"batch_sequences": sequences})
    alone = trial.run(spec, store, Folder(tmp_path))
    together = final_state(Folder(two_ranks / name))
    for one, two in zip(alone.evaluations, together["evaluations"], strict=True):
        assert two["loss"] == pytest.approx(one.loss, rel=1e-4)
