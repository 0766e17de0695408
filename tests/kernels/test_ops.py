"""Around the operations: lists of tiles, and no triton where it is not needed."""

import subprocess
import sys

import pytest
import torch

from raysparse.kernels import bitmask
from raysparse.kernels.tile_lists import tile_lists


def mask_of(blocks: int, density: float) -> tuple[torch.Tensor, int]:
    active = torch.rand(blocks, generator=torch.Generator().manual_seed(1)) < density
    active[0] = True
    return bitmask.pack(active), int(active.sum())


@pytest.mark.parametrize("density", [0.0, 0.02, 0.09, 0.11, 0.5, 1.0])
@pytest.mark.parametrize("blocks", [1, 31, 2500])
def test_positions_are_the_numbers_of_the_bits_that_are_set(blocks, density):
    mask, active = mask_of(blocks, density)
    found = bitmask.positions(mask, blocks, active)
    assert torch.equal(found, bitmask.unpack(mask, blocks).nonzero().view(-1))


@pytest.mark.parametrize("density", [0.0, 0.5, 1.0])
def test_tile_lists_name_every_tile_once_by_row_and_by_column(density):
    mask, active = mask_of(35, density)
    where = tile_lists(mask, 5 * 16, 7 * 16, 16, active)
    expected = [divmod(int(n), 7) for n in bitmask.positions(mask, 35, active)]
    assert list(zip(where.rows.tolist(), where.columns.tolist(), strict=True)) == expected
    for row in range(5):
        assert set(where.rows[where.row_starts[row] : where.row_starts[row + 1]].tolist()) <= {row}
    for column in range(7):
        visits = slice(where.column_starts[column], where.column_starts[column + 1])
        assert set(where.columns[where.by_column[visits].long()].tolist()) <= {column}
    assert sorted(where.by_column.tolist()) == list(range(active))
    assert torch.equal(where.rows_by_column, where.rows[where.by_column.long()])


def test_nothing_here_needs_triton_on_a_cpu():
    program = (
        "import sys; sys.modules['triton'] = None; import torch; from raysparse.kernels import ops, bitmask;"
        "mask = bitmask.pack(torch.ones(40, dtype=torch.bool)); assert ops.bases(mask).tolist() == [0]"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
