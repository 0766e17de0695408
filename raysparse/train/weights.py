"""The weights of a checkpoint into a model, without the optimizer that made them.

Only what a model computes with is read, so a checkpoint of a finished trial need hold no more. A
trial that keeps a moving average has two sets of weights; the caller says which.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn

from raysparse.model.llama import Llama
from raysparse.sparsity.storage import SparseWeights


def load_weights(state: dict[str, Any], model: Llama, weights: SparseWeights, *, average: bool = False) -> None:
    """Fill a model from what `checkpoint.read` gives; with the moving average if `average`. Raises
    ValueError when there is none.
    """
    kind = "average" if average else "values"
    arenas = {"sparse": state["weights"]["arena"], "tables": state["tables"], "norms": state["norms"]}
    if kind not in arenas["tables"]:
        raise ValueError(
            f"trial {state['trial_id']} keeps no average of its weights (optimizer.average is 0); leave out --average"
        )
    for name, mask in state["weights"]["masks"].items():
        weights.matrices[name].layout.replace(mask)
    weights.arena.values.copy_(arenas["sparse"][kind])
    weights.arena.revision += 1
    fill(model.tables(), arenas["tables"][kind])
    fill(model.norms(), arenas["norms"][kind])


def fill(parameters: Iterable[nn.Parameter], flat: Tensor) -> None:
    """Parameters from one flat tensor that holds them one after another."""
    start = 0
    for p in parameters:
        p.data.copy_(flat[start : start + p.numel()].view_as(p))
        start += p.numel()
