"""What the Triton kernels promise beyond `conformance`: on a GPU where there is one, else in the
interpreter (started by `test_conformance`).
"""

import os

import pytest
import torch

from raysparse.kernels import bitmask, ops
from raysparse.kernels.tile_lists import tile_lists
from raysparse.kernels.torch.selection import pairwise_sums

IS_INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
if not (IS_INTERPRETED or torch.cuda.is_available()):
    pytest.skip(
        "neither a GPU nor Triton's interpreter; test_conformance runs this file there", allow_module_level=True
    )
DEVICE = "cpu" if IS_INTERPRETED else "cuda"


@pytest.mark.parametrize("size", [3, 4, 300, 4096])
def test_scores_of_blocks_are_pairwise_sums(size):
    from raysparse.kernels.triton.selection import block_scores

    torch.manual_seed(0)
    values = torch.randn(5 * size)
    scores = block_scores(values.to(DEVICE), size).cpu()
    assert torch.equal(scores, pairwise_sums(values.abs().view(5, size)))


@pytest.mark.skipif(not IS_INTERPRETED, reason="the message is the same anywhere")
def test_soft_rule_refuses_an_exponent_it_cannot_multiply_out():
    with ops.using("triton"), pytest.raises(ValueError, match=r"exponent is 2\.5"):
        ops.weakest(torch.ones(4), 1, 1, noise=1, exponent=2.5)


def test_tiles_of_other_sides_are_refused():
    mask = bitmask.pack(torch.ones(1, dtype=torch.bool))
    with ops.using("triton"), pytest.raises(ValueError, match="tiles are 24 x 24"):
        ops.tile_product(torch.ones(2, 24), torch.ones(1, 24, 24), tile_lists(mask, 24, 24, 24, 1), 24)
