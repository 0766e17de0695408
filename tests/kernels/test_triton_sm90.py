"""The Triton kernels compiled for Hopper, with no GPU: what the interpreter cannot see.

Compilation finds type errors; the assembler's report tells of registers spilled to memory (its
stack); the code tells whether products use the tensor cores of that generation (wgmma) and its copy
engine.
"""

import os
import re
import subprocess

import pytest

triton = pytest.importorskip("triton", reason="triton is not installed")
if os.environ.get("TRITON_INTERPRET") == "1":
    pytest.skip("kernels are interpreted in this process, and so cannot be compiled", allow_module_level=True)

import torch  # noqa: E402
from triton.backends.compiler import GPUTarget  # noqa: E402
from triton.compiler import ASTSource  # noqa: E402

from raysparse.kernels import triton_adam, triton_bits, triton_selection, triton_storage, triton_tiles  # noqa: E402

NAMES = {torch.float32: "fp32", torch.bfloat16: "bf16"}
FLOATS = dict.fromkeys(("weight1", "beta2", "weight2", "eps", "keep"), "fp32")
MASK = {"mask": "*i32", "bases": "*i32", "blocks": "i32", "columns": "i32"}


def compiled(kernel, *, num_warps: int = 4, types: dict[str, str], **constants):
    """`kernel` for sm_90, with its pointers aligned to 16 bytes, as torch allocates them."""
    names = kernel.arg_names
    signature = {name: "constexpr" if name in constants else types[name] for name in names}
    aligned = {(i,): [["tt.divisibility", 16]] for i, name in enumerate(names) if signature[name].startswith("*")}
    source = ASTSource(kernel, signature, {(names.index(name),): value for name, value in constants.items()}, aligned)
    return triton.compile(
        source, target=GPUTarget("cuda", 90, 32), options={"num_warps": num_warps, "enable_fp_fusion": True}
    )


def stack_bytes(kernel, tmp_path) -> int:
    """Bytes of registers a thread that the assembler could not keep, from its own report on the
    binary.
    """
    binary = tmp_path / "kernel.cubin"
    binary.write_bytes(kernel.asm["cubin"])
    report = subprocess.run(
        [triton.knobs.nvidia.cuobjdump.path, "-res-usage", binary], capture_output=True, text=True, check=True
    ).stdout  # fmt: skip
    return sum(int(size) for size in re.findall(r"(?:STACK|LOCAL):(\d+)", report))


@pytest.mark.parametrize("dtypes", [("bf16", "bf16"), ("fp32", "bf16"), ("fp32", "fp32")], ids=str)
@pytest.mark.parametrize(("size", "tile"), [(1, 0), (4, 0), (32, 0), (16**2, 16), (64**2, 64), (128**2, 128)])
def test_expand_and_compact_keep_everything_in_registers(size, tile, dtypes, tmp_path):
    stored, dense = dtypes
    width, count = triton_storage.cut_of(size)
    cut = {"size": size, "tile": tile, "count": count, "width": width}
    expand = compiled(triton_storage._expand, types={**MASK, "values": f"*{stored}", "out": f"*{dense}"}, **cut)
    compact = compiled(
        triton_storage._compact, types={**MASK, "dense": f"*{dense}", "compact": f"*{stored}"}, accumulate=True, **cut
    )  # fmt: skip
    assert stack_bytes(expand, tmp_path) == stack_bytes(compact, tmp_path) == 0


@pytest.mark.parametrize("ages", [{}, {"age": None}], ids=["ages", "no ages"])
@pytest.mark.parametrize("dtypes", [("bf16", "bf16"), ("bf16", "fp32"), ("fp32", "fp32")], ids=str)
def test_adam_step_keeps_everything_in_registers(dtypes, ages, tmp_path):
    value, moment = (f"*{name}" for name in dtypes)
    tables = dict.fromkeys(("step_size", "correction", "gradient_factor"), "*fp32")
    types = {
        "values": value,
        "grad": value,
        "exp_avg": moment,
        "exp_avg_sq": moment,
        "age": "*u8",
        "total": "i64",
        "noise": "i64",
    }
    kernel = compiled(
        triton_adam._adam_step, types={**types, **tables, **FLOATS}, size=1, portion=triton_adam.PORTION, **ages
    )  # fmt: skip
    assert stack_bytes(kernel, tmp_path) == 0
    draws_words = str(0xD2511F53 - 2**32) in kernel.asm["ptx"]  # a multiplier of Philox
    assert draws_words == ("bf16" in dtypes), "float32 storage pays for no random words"


@pytest.mark.parametrize(
    ("rule", "source", "power"),
    [
        ("weakest", "*bf16", 0),
        ("weakest", "*fp32", 0),
        ("weakest", "*bf16", 3),
        ("random", None, 0),
        ("largest", "*fp32", 0),
    ],
)
def test_selection_compiles(rule, source, power):
    types = {
        "source": source,
        "noise": "i64",
        "total": "i32",
        "mask": "*i32",
        "state": "*i32",
        "counts": "*i32",
        "ties": "*i32",
        "out": "*u8" if rule == "weakest" else "*i32",
    }
    fixed = {"rule": rule, "power": power}
    fixed |= {"mask": None} if rule == "weakest" else {"source": None} if rule == "random" else {}
    for shift in (24, 0):
        compiled(triton_selection._count_digits, types=types, shift=shift, count=triton_selection.COUNTED, **fixed)
    compiled(triton_selection._count_ties, types=types, **fixed)
    compiled(triton_selection._choose, types=types, packed=rule != "weakest", **fixed)


def test_the_small_kernels_compile():
    compiled(triton_selection._narrow, types={"state": "*i32", "counts": "*i32"})
    for size in (3, 64, 16**2):
        width, levels, count = triton_selection.cut_of(size)
        compiled(
            triton_selection._sum_pairs,
            types={"values": "*bf16", "sums": "*fp32", "total": "i32", "size": "i32", "parts": "i32"},
            width=width,
            levels=levels,
            count=count,
        )
    compiled(
        triton_bits._count_groups,
        types={"mask": "*i32", "counts": "*i32", "n_words": "i32"},
        groups=triton_bits.GROUPS_AT_ONCE,
    )
    for inverted in (0, 1):
        compiled(triton_bits._pack, types={"flags": "*u8", "mask": "*i32", "blocks": "i32"}, inverted=inverted)
    compiled(triton_bits._remove, types={**MASK, "dropped": "*u8"})
    compiled(triton_bits._stayed, types={**MASK, "regrown": "*i32", "out": "*u8"})


@pytest.mark.parametrize("dtype", NAMES, ids=str)
@pytest.mark.parametrize("side", [16, 32, 64, 128])
def test_tile_products(side, dtype, tmp_path):
    """No spills anywhere; for bfloat16, wgmma in every product of tiles of 64 and 128, and operands
    through the copy engine.
    """
    name, cut = NAMES[dtype], triton_tiles.cut_of(side, dtype)
    indices = dict.fromkeys(("starts", "numbers", "partners", "rows", "columns"), "*i32")
    kernels = []
    for transposed in (True, False):
        tile_block = f"{side},{cut.depth}" if transposed else f"{cut.depth},{side}"
        kernels.append(
            compiled(
                triton_tiles._product,
                num_warps=cut.warps,
                types={
                    **indices,
                    "x": f"tensordesc<{name}[{cut.portion},{cut.depth}]>",
                    "tiles": f"tensordesc<{name}[{tile_block}]>",
                    "y": f"tensordesc<{name}[{cut.portion},{side}]>",
                },
                side=side,
                portion=cut.portion,
                depth=cut.depth,
                transposed=transposed,
                widen=False,
                **({"numbers": None} if transposed else {}),
            )
        )
    kernels.append(compiled(
        triton_tiles._weight_gradient, num_warps=cut.warps,
        types={**indices, "gradient": f"tensordesc<{name}[{cut.tokens},{side}]>",
               "x": f"tensordesc<{name}[{cut.tokens},{cut.part}]>", "out": f"*{name}", "tokens": "i32"},
        side=side, part=cut.part, depth=cut.tokens, widen=False,
    ))  # fmt: skip
    for kernel in kernels:
        assert stack_bytes(kernel, tmp_path) == 0
        assert "cp.async.bulk.tensor" in kernel.asm["ptx"]
        if dtype == torch.bfloat16 and side >= 64:
            assert "wgmma.mma_async" in kernel.asm["ptx"]
