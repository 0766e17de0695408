"""What a folder written by `raysparse export` holds, and reading it back.

`model.safetensors` is dense: no engine in use takes unstructured-sparse weights. Where the zeros
are is in `sparse.safetensors`: for every projection NAME one bit a weight (`NAME.bitmask`, uint8,
row by row, the lowest bit first) and the weights whose bit is set (`NAME.values`, in that order).
An active weight may itself be 0, as one that was just regrown is, so the bits cannot be read off
the dense weights. Shapes are in the file's metadata, as JSON under `shapes`. `raysparse.json` says
what was trained.

Left out: writing (`export`), folders that are not on a local disk.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from raysparse.counts import Blocks
from raysparse.data.tokenizer import Tokenizer, load_tokenizer
from raysparse.files import Folder
from raysparse.kernels import bitmask
from raysparse.model.llama import Llama
from raysparse.release.llama_names import dense_parameters, projection
from raysparse.sparsity.layout import Layout
from raysparse.sparsity.storage import SparseWeights
from raysparse.spec import TrialSpec

ABOUT = "raysparse.json"
WEIGHTS = "model.safetensors"
SPARSE = "sparse.safetensors"
TOKENIZER = "tokenizer.json"
INSTALL = "pip install '.[export]' in the clone"


def load(folder: Folder, model: Llama, weights: SparseWeights) -> None:
    """Fill a model from an export. Raises ValueError when a file of it is missing or damaged."""
    for name in (WEIGHTS, *([SPARSE] if any(not m.layout.is_full for m in weights.matrices.values()) else [])):
        if not folder.exists(name):
            raise ValueError(f"{folder.uri} lacks {name}; export the model again")
    dense = tensors(folder.local_path / WEIGHTS)
    masks = dict(active(folder.local_path / SPARSE)) if folder.exists(SPARSE) else {}
    for name, parameter in dense_parameters(model):
        parameter.data.copy_(dense[name])
    for name, matrix in weights.matrices.items():
        matrix.values.zero_()
        if not matrix.layout.is_full:
            matrix.layout.replace(packed(masks[projection(name)], matrix.layout).to(matrix.values.device))
        found = dense[projection(name)].to(matrix.values)
        matrix.layout.compact_accumulate(found, matrix.values)
    weights.arena.revision += 1


def tensors(path: Path) -> dict[str, Tensor]:
    """A safetensors file. Raises ValueError when it is damaged."""
    try:
        from safetensors import SafetensorError
        from safetensors.torch import load_file
    except ImportError as error:
        raise ValueError(f"exported models need safetensors ({error}): {INSTALL}") from error
    try:
        found: dict[str, Tensor] = load_file(str(path))
    except SafetensorError as error:
        raise ValueError(f"{path} is not a safetensors file: {error}; export the model again") from error
    return found


def active(path: Path) -> Iterator[tuple[str, Tensor]]:
    """(name, bool (rows, columns)) of every projection in a side file."""
    from safetensors import safe_open

    with safe_open(str(path), "pt") as file:
        for name, (rows, columns) in json.loads(file.metadata()["shapes"]).items():
            bits = np.unpackbits(file.get_tensor(f"{name}.bitmask").numpy(), count=rows * columns, bitorder="little")
            yield name, torch.from_numpy(bits.view(np.bool_)).view(rows, columns)


def packed(weights: Tensor, layout: Layout) -> Tensor:
    """The mask of a layout from which weights are active, bool (rows, columns)."""
    shape: Blocks = layout.shape
    if layout.kind == "tile":
        corners = weights[:: layout.block, :: layout.block]
    else:
        corners = weights.reshape(shape.total, shape.size)[:, 0]
    return bitmask.pack(corners.reshape(-1).contiguous())


def tokenizer(folder: Folder, spec: TrialSpec) -> Tokenizer:
    """The tokenizer of an export, as training used it. Raises ValueError when its file is
    missing.
    """
    if not folder.exists(TOKENIZER):
        raise ValueError(f"{folder.uri} lacks {TOKENIZER}; export the model again")
    separator = folder.read_json(ABOUT)["separator"]
    return load_tokenizer(spec.data.tokenizer, folder.read(TOKENIZER).decode(), separator)
