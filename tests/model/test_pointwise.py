"""Rotary embedding and SwiGLU with their own backward passes are the plain formulas under autograd,
on a CPU to the bit; and side by side, as a GPU's products make them, to rounding.
"""

import pytest
import torch
import torch.nn.functional as F  # noqa: N812

from raysparse import memory
from raysparse.kernels import ops
from raysparse.model.llama import rotary_tables
from raysparse.model.loss import head_loss
from raysparse.model.pointwise import swiglu, turned
from raysparse.spec import ModelSpec

HEADS, E, T = 3, 10, 17
DTYPES = [torch.float32, torch.bfloat16]


def both_ways(formula, made):
    """(results, gradients of what went in), for gradients at random."""
    made = [one.detach().requires_grad_() for one in made]
    found = formula(made)
    generator = torch.Generator().manual_seed(1)
    wanted = [torch.randn(one.shape, generator=generator).to(one.dtype) for one in found]
    return found, torch.autograd.grad(found, made, wanted)


def random_numbers(count, width, dtype):
    return [torch.randn(2, T, width).mul(2).to(dtype) for _ in range(count)]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_swiglu_is_the_plain_formula(dtype):
    gate, up = random_numbers(2, 1000, dtype)
    results, gradients = both_ways(lambda made: [swiglu(made)], [gate, up])
    plain, expected = both_ways(lambda made: [F.silu(made[0]) * made[1]], [gate, up])
    assert torch.equal(results[0], plain[0])
    assert all(map(torch.equal, gradients, expected))
    joined, (gradient,) = both_ways(lambda made: [swiglu(made)], [torch.cat([gate, up], -1)])
    torch.testing.assert_close(joined[0], plain[0])  # exp at the end of a row is not exp within it, to the last bit
    torch.testing.assert_close(gradient, torch.cat(expected, -1))


def test_swiglu_keeps_what_the_products_made_and_no_more():
    kept = []
    gate, up = (one.requires_grad_() for one in random_numbers(2, 8, torch.float32))
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x.data_ptr()) or x, lambda x: x):
        swiglu([gate, up])
    assert kept == [gate.data_ptr(), up.data_ptr()]


def turned_plainly(made, cosine, sine):
    """As complex numbers would turn, an operation a line; values as they are."""
    found = []
    for number, x in enumerate(made):
        x = x.view(*x.shape[:2], HEADS, E).transpose(1, 2)
        first, second = x.chunk(2, dim=-1)
        found.append(x if number == 2 else x * cosine + torch.cat([-second, first], dim=-1) * sine)
    return found


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_rotary_embedding_is_the_plain_formula(dtype):
    model = ModelSpec(hidden=HEADS * E, intermediate=8, layers=1, heads=HEADS, vocab_size=9, context=T)
    cosine, sine = (table.to(dtype) for table in rotary_tables(model))
    made = random_numbers(3, HEADS * E, dtype)
    plain, expected = both_ways(lambda made: turned_plainly(made, cosine, sine), made)
    for given in (made, [torch.cat(made, -1)]):
        results, gradients = both_ways(lambda made: turned(made, cosine, sine, HEADS), given)
        assert all(map(torch.equal, results, plain))
        assert torch.equal(torch.cat(gradients, -1), torch.cat(expected, -1))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_heads_gradient_begins_with_its_first_portion_and_not_with_zeros(dtype, monkeypatch):
    """And is scaled where it lies, with the bits of the sum over zeros and all portions."""
    hidden, head = torch.randn(70, 33).to(dtype).requires_grad_(), torch.randn(50, 33, requires_grad=True)
    targets = torch.randint(0, 50, (70,))
    monkeypatch.setattr(memory, "logit_elements", lambda *_: 32 * 50)
    expected = torch.zeros(50, 33)
    for part in (slice(0, 32), slice(32, 64), slice(64, 70)):
        with torch.no_grad():
            logits = (hidden[part] @ head.to(dtype).t()).float()
            slope = (logits.log_softmax(1).exp() - F.one_hot(targets[part], 50)).to(dtype)
            if dtype == torch.float32:
                expected.addmm_(slope.t(), hidden[part])
            else:
                expected.add_(slope.t() @ hidden[part])
    with ops.using("torch"):
        (gradient,) = torch.autograd.grad(head_loss(hidden, head, targets) * 0.1, head)
    assert torch.equal(gradient, expected * 0.1)
