"""What is said in words or tables about speed and memory is what was measured and committed."""

import json

import pytest

from benchmarks import readme, step
from benchmarks.record import RESULTS
from raysparse import counts


def test_the_tables_of_the_readme_are_those_of_the_results():
    text = readme.README.read_text()
    assert sorted(readme.marked(text)) == sorted(readme.TABLES)
    assert readme.rendered(text) == text, "run `python -m benchmarks.readme`"


@pytest.mark.parametrize("key", [key for key in counts.TILE_BREAK_EVEN if key[0] == "cpu"], ids=str)
def test_tile_products_are_used_only_where_they_were_measured_to_win(key):
    device, dtype, side = key
    rows = json.loads((RESULTS / f"tiles-{device}.json").read_text())["rows"]
    found = step.break_even(rows, {"fp32": "float32", "bf16": "bfloat16"}[dtype], side)
    assert 0.8 * found < counts.TILE_BREAK_EVEN[key] <= found
