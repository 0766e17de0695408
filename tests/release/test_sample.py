"""Sampling: with a cache as without, settings that do what they say, and text that streams whole
characters.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from raysparse.console import cli
from raysparse.data.tokenizer import ByteTokenizer, train_bpe
from raysparse.model.cache import Cache
from raysparse.model.llama import Llama
from raysparse.release.opened import open_model
from raysparse.release.sample import NextToken, SamplingSpec, Spelling, drawn, first_seen, generate, probabilities
from raysparse.sparsity.storage import SparseWeights
from tests.conftest import small_trial
from tests.release.models import place

SPARSITIES = {"dense": {"method": "dense"}, "element": {}, "tile": {"sparsity": {"layout": "tile", "block": 4}}}
LOGITS = st.lists(st.floats(-20, 20), min_size=2, max_size=30).map(lambda values: torch.tensor(values))


@pytest.mark.parametrize("precision", ["fp32", "bf16", "bf16_master"])
@pytest.mark.parametrize(
    "sparsity",
    [{"method": "dense"}, {}, {"sparsity": {"layout": "tile", "block": 4}}],
    ids=["dense", "element", "tile"],
)
def test_logits_with_a_cache_are_those_without(sparsity, precision):
    """Across three times the context, so that it is filled and half forgotten several times."""
    spec = small_trial(precision=precision, **sparsity)
    model = Llama(spec, SparseWeights(spec, resident=True)).requires_grad_(False)
    for parameter in model.parameters():  # as initialised, logits would be nearly equal
        parameter.data.mul_(3)
    fast, plain = (NextToken(model, spec.model, cached=cached) for cached in (True, False))
    numbers = np.random.default_rng(0).integers(0, 257, 100).tolist()
    for length in [7, *range(9, 100)]:
        one, two = fast.logits(numbers[:length]), plain.logits(numbers[:length])
        tolerance = 1e-5 if precision == "fp32" else 2e-2
        torch.testing.assert_close(one, two, rtol=tolerance, atol=tolerance)


def test_several_tokens_at_once_may_be_read_behind_a_cache():
    spec = small_trial()
    model = Llama(spec, SparseWeights(spec)).requires_grad_(False)
    tokens = torch.randint(0, 257, (3, 20), generator=torch.Generator().manual_seed(0))
    cache = Cache(spec.model, 3, dtype=torch.float32)
    parts = [model.hidden(part, cache=cache) for part in tokens.split([5, 1, 9, 5], dim=1)]
    torch.testing.assert_close(torch.cat(parts, dim=1), model.hidden(tokens))
    with pytest.raises(ValueError, match="20 positions are read and 13 more asked for, but the context is 32"):
        cache.places(13)


@given(st.integers(1, 300), st.integers(1, 64))
def test_at_least_half_a_context_is_seen_and_never_more_than_one(length, context):
    seen = length - first_seen(length, context)
    assert min(length, context // 2) <= seen <= context
    assert seen >= 1


@given(LOGITS, st.floats(0.1, 5), st.integers(0, 40), st.floats(0.01, 1.0))
def test_probabilities_are_those_of_the_plain_definition(logits, temperature, k, p):
    found = probabilities(logits, SamplingSpec(temperature=temperature, top_k=k, top_p=p)).tolist()
    assert sum(found) == pytest.approx(1.0)
    plain = torch.softmax(logits.double() / temperature, dim=0).tolist()
    order = sorted(range(len(plain)), key=lambda n: -logits[n].item())[: k or None]
    share = sum(plain[n] for n in order)
    kept, together = [], 0.0
    for n in order:
        assume(abs(together - p) > 1e-6)  # a rounding decides
        if together < p:
            kept.append(n)
        together += plain[n] / share
    for n in kept:
        assert found[n] == pytest.approx(plain[n] / sum(plain[m] for m in kept), abs=1e-6)


@given(LOGITS, st.floats(0, 1, exclude_max=True))
def test_what_is_drawn_has_a_probability(logits, uniform):
    probability = probabilities(logits, SamplingSpec(top_k=3, top_p=0.9))
    assert probability[drawn(probability, uniform)] > 0


def test_draws_follow_the_probabilities():
    probability = torch.tensor([0.5, 0.0, 0.3, 0.2], dtype=torch.float64)
    uniform = (np.arange(1000) + 0.5) / 1000
    assert np.bincount([drawn(probability, u) for u in uniform]).tolist() == [500, 0, 300, 200]


def test_a_seed_is_a_text_and_the_likeliest_needs_none(run, spec):
    opened = open_model(place(run, spec), resident=True)
    texts = {seed: list(generate(opened, [256, 65], SamplingSpec(seed=seed), 60)) for seed in (0, 1)}
    assert list(generate(opened, [256, 65], SamplingSpec(seed=0), 60)) == texts[0] != texts[1]
    assert list(generate(opened, [256, 65], SamplingSpec(seed=0), 60, cached=False)) == texts[0]
    likeliest = [list(generate(opened, [256, 65], SamplingSpec(temperature=0, seed=s), 20)) for s in (0, 1)]
    assert likeliest[0] == likeliest[1]


def test_it_ends_where_the_model_ends_the_document(run, spec):
    opened = open_model(place(run, spec))
    opened.model.head.data.zero_()
    opened.model.head.data[opened.tokenizer.separator] = torch.sign(
        opened.model.hidden(torch.tensor([[256, 65]]))[0, -1]
    )
    assert list(generate(opened, [256, 65], SamplingSpec(temperature=0), 10)) == []


@given(st.text(alphabet="aä木😀 \n", max_size=20), st.binary(max_size=6))
def test_bytes_stream_into_whole_characters(text, noise):
    """Whatever comes is said in the end; text of whole characters exactly."""
    tokenizer = ByteTokenizer()
    spelling = Spelling(tokenizer, [])
    parts = [spelling.add(token) for token in text.encode()]
    assert "\ufffd" not in "".join(parts)
    assert "".join(parts) + spelling.rest() == text
    said = "".join([spelling.add(token) for token in noise]) + spelling.rest()
    assert bool(said) == bool(noise)


def test_pieces_of_words_stream_as_they_are_decoded():
    tokenizer = train_bpe("bpe:300", 300, ["the tree of a small house ä 木 " * 20])
    text = "the small 木 tree ä of the house"
    [ids] = tokenizer.encode_batch([text])
    spelling = Spelling(tokenizer, [])
    assert "".join(spelling.add(int(token)) for token in ids) + spelling.rest() == text


def test_the_command_prints_the_prompt_and_what_follows(run, spec, capsys):
    assert cli.main(["sample", run.uri, "--prompt", "the tree", "--most", "20", "--seed", "3"]) == 0
    said = capsys.readouterr()
    assert said.out.startswith("the tree")
    assert len(said.out) > len("the tree") + 5
    assert " a second" in said.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--prompt", "a\udcff"], "--prompt holds '\\udcff' at character 1, which is no UTF-8"),
        (["--temperature", "-1"], "--temperature is -1.0, expected 0"),
        (["--top-p", "0"], "--top-p is 0.0, expected a probability"),
        (["--device", "tpu"], "is 'tpu', expected cpu, cuda"),
        (["--most", "0"], "--most is 0, expected at least 1 token"),
    ],
)
def test_a_mistake_is_one_line(arguments, message, run, capsys):
    assert cli.main(["sample", run.uri, *arguments]) == 2
    said = capsys.readouterr().err.splitlines()
    assert message in said[-1]
