"""The model against a second one written with torch.nn alone, forward and gradients, for every
layout and dtype.
"""

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

from raysparse import counts, memory
from raysparse.model.dropout import Dropout
from raysparse.model.loss import head_loss
from raysparse.placement import Placement
from raysparse.sparsity import storage
from raysparse.spec import ModelSpec
from raysparse.train.state import TrainState
from tests.conftest import small_trial


class PlainLlama(nn.Module):
    """LLaMA from its description, with ordinary dense layers, one loop over positions and full
    logits.
    """

    def __init__(self, model: ModelSpec):
        super().__init__()
        self.model = model
        self.embedding = nn.Embedding(model.vocab_size, model.hidden)
        self.projections = nn.ParameterDict(
            {name.replace(".", "/"): nn.Parameter(torch.empty(shape)) for name, shape in model.projections.items()}
        )
        self.norms = nn.ParameterList([nn.Parameter(torch.ones(model.hidden)) for _ in range(2 * model.layers + 1)])
        self.head = nn.Parameter(torch.empty(model.vocab_size, model.hidden))

    def rms(self, x, weight):
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6) * weight

    def rotary(self, x):
        """x (b, t, a, e): the pair (i, i + e/2) at position p turns by p * 10000^(-2i/e)."""
        e, out = x.shape[-1], x.clone()
        for p in range(x.shape[1]):
            for i in range(e // 2):
                angle = torch.tensor(p * 10_000 ** (-2 * i / e))
                one, two = x[:, p, :, i], x[:, p, :, i + e // 2]
                out[:, p, :, i] = one * angle.cos() - two * angle.sin()
                out[:, p, :, i + e // 2] = two * angle.cos() + one * angle.sin()
        return out

    def forward(self, tokens, dropped=None, probability=0.0):
        """dropped: for every layer the dropped numbers (b, t, h) of attention and of the MLP."""
        model, inputs, targets = self.model, tokens[:, :-1], tokens[:, 1:]
        b, t = inputs.shape
        x = self.embedding(inputs)
        for layer in range(model.layers):
            weight = {n.split("/", 2)[2]: w for n, w in self.projections.items() if n.startswith(f"layers/{layer}/")}
            z = self.rms(x, self.norms[2 * layer])
            q, k, v = ((z @ weight[f"attention/{n}"].T).view(b, t, model.heads, -1) for n in ("query", "key", "value"))
            scores = torch.einsum("bqae,bkae->baqk", self.rotary(q), self.rotary(k)) / q.shape[-1] ** 0.5
            scores = scores.masked_fill(torch.ones(t, t).triu(1).bool(), float("-inf"))
            mixed = torch.einsum("baqk,bkae->bqae", scores.softmax(-1), v).reshape(b, t, -1)
            attended = mixed @ weight["attention/output"].T
            x = x + (attended if dropped is None else attended * ~dropped[layer][0] / (1 - probability))
            z = self.rms(x, self.norms[2 * layer + 1])
            gate, up = z @ weight["mlp/gate"].T, z @ weight["mlp/up"].T
            mixed = (gate * torch.sigmoid(gate) * up) @ weight["mlp/down"].T
            x = x + (mixed if dropped is None else mixed * ~dropped[layer][1] / (1 - probability))
        logits = self.rms(x, self.norms[-1]) @ self.head.T
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="sum")


def plain_copy(state: TrainState) -> PlainLlama:
    """The same weights in a plain model; masked weights are zeros there."""
    plain = PlainLlama(state.spec.model)
    with torch.no_grad():
        plain.embedding.weight.copy_(state.model.embedding)
        plain.head.copy_(state.model.head)
        for name, matrix in state.weights.matrices.items():
            plain.projections[name.replace(".", "/")].copy_(
                matrix.layout.expand(matrix.values, torch.empty(matrix.shape))
            )
    return plain


def tokens(state: TrainState, sequences: int = 3) -> torch.Tensor:
    model = state.spec.model
    return torch.randint(
        0, model.vocab_size, (sequences, model.context + 1), generator=torch.Generator().manual_seed(1)
    )


SPARSITIES = {
    "dense": {"method": "dense"},
    "element": {"density": 0.3},
    "run": {"density": 0.3, "sparsity": {"layout": "run", "block": 4}},
    "tile": {"density": 0.3, "sparsity": {"layout": "tile", "block": 4}},
    "erk": {"density": 0.3, "sparsity": {"distribution": "erk"}},
}


@pytest.mark.parametrize("tile_products", [True, False])
@pytest.mark.parametrize("kind", list(SPARSITIES))
def test_loss_and_gradients_equal_a_plain_model(kind, tile_products, monkeypatch):
    monkeypatch.setitem(counts.TILE_BREAK_EVEN, ("cpu", "fp32", 4), 1.0 if tile_products else 0.0)
    state = TrainState(small_trial(seed=3, **SPARSITIES[kind]), Placement())
    plain, rows = plain_copy(state), tokens(state)
    ours, theirs = state.model(rows), plain(rows)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-4)
    ours.backward()
    theirs.backward()
    torch.testing.assert_close(state.model.embedding.grad, plain.embedding.weight.grad, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(state.model.head.grad, plain.head.grad, rtol=1e-3, atol=1e-4)
    for name, matrix in state.weights.matrices.items():
        expected = torch.zeros_like(matrix.grad)
        matrix.layout.compact_accumulate(plain.projections[name.replace(".", "/")].grad, expected)
        torch.testing.assert_close(matrix.grad, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("kind", ["dense", "tile"])
def test_with_dropout_loss_and_gradients_equal_a_plain_model_that_drops_the_same(kind):
    state = TrainState(small_trial(seed=3, optimizer={"dropout": 0.25}, **SPARSITIES[kind]), Placement())
    plain, rows, dropout = plain_copy(state), tokens(state), Dropout.of(state.spec, step=7, first_row=2)
    shape = (3, 32, 16)
    dropped = [[dropout.dropped(shape, layer, place) for place in (0, 1)] for layer in range(2)]
    ours, theirs = state.model(rows, dropout), plain(rows, dropped, 0.25)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-4)
    assert ours.item() != state.model(rows).item()
    ours.backward()
    theirs.backward()
    torch.testing.assert_close(state.model.embedding.grad, plain.embedding.weight.grad, rtol=1e-3, atol=1e-4)
    for name, matrix in state.weights.matrices.items():
        expected = torch.zeros_like(matrix.grad)
        matrix.layout.compact_accumulate(plain.projections[name.replace(".", "/")].grad, expected)
        torch.testing.assert_close(matrix.grad, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(("layout", "block"), [("element", 1), ("tile", 4)])
def test_a_wanted_dense_gradient_holds_the_inactive_weights_too(layout, block, monkeypatch):
    monkeypatch.setitem(counts.TILE_BREAK_EVEN, ("cpu", "fp32", 4), 1.0)
    state = TrainState(small_trial("rigl", 0.3, sparsity={"layout": layout, "block": block}), Placement())
    plain, rows = plain_copy(state), tokens(state)
    state.weights.want_dense_gradients(True)
    state.model(rows).backward()
    plain(rows).backward()
    for name, matrix in state.weights.matrices.items():
        torch.testing.assert_close(
            matrix.dense_gradient, plain.projections[name.replace(".", "/")].grad, rtol=1e-3, atol=1e-4
        )


@pytest.mark.parametrize("precision", ["bf16", "bf16_master"])
@pytest.mark.parametrize("kind", ["dense", "element", "tile"])
def test_bf16_stays_close_to_float32(precision, kind, monkeypatch):
    monkeypatch.setitem(counts.TILE_BREAK_EVEN, ("cpu", "bf16", 4), 1.0)
    spec = small_trial(**SPARSITIES[kind])
    exact, low = TrainState(spec, Placement()), TrainState(spec.replace(precision=precision), Placement())
    rows = tokens(exact)
    one, two = exact.model(rows), low.model(rows)
    torch.testing.assert_close(two, one, rtol=1e-2, atol=0.1)
    one.backward()
    two.backward()
    cosine = F.cosine_similarity(exact.weights.arena.grad, low.weights.arena.grad.float(), dim=0)
    assert cosine > 0.99


def test_a_full_matrix_among_tiles_has_the_scratch_that_its_cast_needs(monkeypatch):
    """ERK can leave thin matrices full while the others multiply their tiles, which need none."""
    monkeypatch.setitem(counts.TILE_BREAK_EVEN, ("cpu", "bf16", 4), 1.0)
    sparsity = {"layout": "tile", "block": 4, "distribution": "erk"}
    state = TrainState(small_trial(density=0.9, sparsity=sparsity, precision="bf16_master"), Placement())
    kinds = {(m.layout.is_full, m.tiled) for m in state.weights.matrices.values()}
    assert kinds == {(True, False), (False, True)}
    state.model(tokens(state)).backward()
    assert all(m.grad.any() for m in state.weights.matrices.values())


@pytest.mark.parametrize("context", [1, 37])
def test_the_loss_in_portions_equals_the_loss_at_once(context, monkeypatch):
    """Also where targets lie apart: of sequences of one token they are every second."""
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(37, 8, generator=generator, requires_grad=True)
    head = torch.randn(11, 8, generator=generator, requires_grad=True)
    targets = torch.randint(0, 11, (37 // context, context + 1), generator=generator)[:, 1:].flatten()
    assert targets.is_contiguous() == (context > 1)
    monkeypatch.setattr(memory, "logit_elements", lambda *_: 44)  # four tokens at a time
    ours = head_loss(hidden, head, targets) * 0.5
    gradients = torch.autograd.grad(ours, (hidden, head))
    theirs = F.cross_entropy(hidden @ head.T, targets, reduction="sum") * 0.5
    torch.testing.assert_close(ours, theirs)
    for got, want in zip(gradients, torch.autograd.grad(theirs, (hidden, head)), strict=True):
        torch.testing.assert_close(got, want)
    with torch.no_grad():
        torch.testing.assert_close(head_loss(hidden, head, targets) * 0.5, theirs)


def test_the_heads_gradient_is_added_up_in_float32(monkeypatch):
    """Summed in bfloat16 over these 64 portions it would be 1 % off; what is left is the rounding
    of what goes into a product.
    """
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(2048, 16, generator=generator).bfloat16()
    head = torch.randn(50, 16, generator=generator, requires_grad=True)
    targets = torch.randint(0, 50, (2048,), generator=generator)
    monkeypatch.setattr(memory, "logit_elements", lambda *_: 32 * 50)
    (got,) = torch.autograd.grad(head_loss(hidden, head, targets), head)
    exact = F.cross_entropy(hidden.double() @ head.bfloat16().double().T, targets, reduction="sum")
    (want,) = torch.autograd.grad(exact, head)
    assert got.dtype == torch.float32
    assert (got - want).norm() < 0.004 * want.norm()


@pytest.mark.parametrize("kind", ["dense", "element", "run"])
@pytest.mark.parametrize("precision", ["fp32", "bf16_master"])
def test_resident_weights_change_nothing_but_memory(kind, precision, monkeypatch):
    spec = small_trial(seed=3, precision=precision, **SPARSITIES[kind])
    states = [TrainState(spec, Placement(resident=resident, micro_batch=2)) for resident in (False, True)]
    rows = tokens(states[0])
    for step in (1, 2, 3):
        losses = []
        for state in states:
            loss = state.model(rows)
            loss.backward()
            state.optimizer.step(step, torch.tensor(1.0))
            if step == 2:
                state.topology.update(state.weights, 8)
            losses.append(loss.item())
        assert losses[0] == losses[1]
    assert torch.equal(states[0].weights.arena.values, states[1].weights.arena.values)
    resident = states[1].bytes_by_kind()["resident"]
    assert (resident > 0) == (spec.sparsity.density < 1 or precision == "bf16_master")
    again = TrainState(spec, Placement(resident=True))
    again.model(rows)  # fills them with the first weights
    again.load_state_dict(states[1].state_dict())
    assert torch.equal(again.model(rows), states[1].model(rows))


def test_the_future_is_not_seen():
    state = TrainState(small_trial(), Placement())
    rows = tokens(state, 1)[:, :-1]
    changed = rows.clone()
    changed[0, 20] = (changed[0, 20] + 1) % 257
    with torch.no_grad():
        before, after = state.model.hidden(rows), state.model.hidden(changed)
    assert torch.equal(before[:, :20], after[:, :20])
    assert not torch.equal(before[:, 20:], after[:, 20:])


def test_a_layout_of_every_density_starts_from_the_same_dense_matrix():
    full = TrainState(small_trial("dense"), Placement()).weights.matrices
    sparse = TrainState(small_trial(density=0.3), Placement()).weights.matrices
    for name, matrix in sparse.items():
        weight, mask = (
            matrix.weight().clone(),
            matrix.layout.expand(torch.ones_like(matrix.values), torch.empty(matrix.shape)),
        )
        assert torch.equal(weight, full[name].weight() * mask)


DEEP = ModelSpec(hidden=16, intermediate=24, layers=10, heads=2, vocab_size=257, context=32)


@pytest.mark.parametrize(("method", "density"), [("smet", 0.3), ("dense", 1.0)])
def test_compiling_changes_nothing_but_rounding(method, density, monkeypatch):
    """With torch's tracer and without its code generator, which needs a compiler: the graphs are
    what could go wrong.
    """
    monkeypatch.setattr(
        nn.Module,
        "compile",
        lambda self: setattr(self, "_compiled_call_impl", torch.compile(self._call_impl, backend="eager")),
    )
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    spec = small_trial(method, density, model=DEEP, optimizer={"dropout": 0.2})
    plain, compiled = TrainState(spec, Placement()), TrainState(spec, Placement(compile=True))
    rows, graphs, told = tokens(plain), [], []
    for matrix in compiled.weights.matrices.values():
        matrix.on_gradient = told.append
    for step in range(1, 5):
        dropout = Dropout.of(spec, step=step, first_row=0)
        one, two = plain.model(rows, dropout), compiled.model(rows, dropout)
        torch.testing.assert_close(two, one)
        one.backward()
        two.backward()
        for state in (plain, compiled):
            state.optimizer.step(step, torch.tensor(0.5))
        graphs.append(torch._dynamo.utils.counters["stats"]["unique_graphs"])
    torch.testing.assert_close(compiled.weights.arena.values, plain.weights.arena.values)
    assert 0 < graphs[0] <= 8, "a layer is compiled once for all of them"
    assert graphs[1:] == graphs[:1] * 3  # no step is compiled anew
    assert sorted(told) == sorted([m.number for m in compiled.weights.matrices.values()] * 4)


WIDE = ModelSpec(hidden=128, intermediate=192, layers=1, heads=2, vocab_size=257, context=32)


@pytest.mark.parametrize(
    "spec",
    [
        small_trial("dense"),
        small_trial("dense", precision="bf16_master"),
        small_trial("smet", 0.3),
        small_trial("smet", 0.3, sparsity={"layout": "run", "block": 4}),
        small_trial("smet", 0.1, model=WIDE, sparsity={"layout": "tile", "block": 16}),
    ],
    ids=["dense", "dense, cast", "element", "run", "tile"],
)
def test_matrices_joined_as_on_a_gpu_make_what_each_makes_alone(spec, monkeypatch):
    """To rounding, before and after a change of topology, which is the same: masks are shared."""
    alone = TrainState(spec, Placement())
    monkeypatch.setattr(storage, "multiplied", lambda blocks, device: counts.multiplied(blocks, "cuda"))
    joined = TrainState(spec, Placement())
    assert [len(state.model.layers[0].qkv.matrices) for state in (alone, joined)] == [3, 1]
    rows = torch.randint(0, 257, (4, 33), generator=torch.Generator().manual_seed(0))
    rounding = 2e-2 if spec.precision == "bf16_master" else 1e-4
    for step in (8, 16):
        losses = [state.model(rows) for state in (alone, joined)]
        torch.testing.assert_close(*losses, rtol=rounding, atol=0.0)
        for loss in losses:
            loss.backward()
        grads = [state.weights.arena.grad for state in (alone, joined)]
        assert (grads[0] - grads[1]).norm() < rounding * grads[0].norm()
        for state in (alone, joined):
            state.topology.update(state.weights, step)
            state.weights.arena.grad.zero_()
        assert alone.weights.checksum() == joined.weights.checksum()
