"""What transformers calls the weights of a `LlamaForCausalLM`, and what they are here.

The two models are one: RMSNorm, rotary embedding that turns halves of a head together, SwiGLU, no
biases, an untied head, as many heads of keys as of queries. So an export is a renaming.
"""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor, nn

from raysparse.model.llama import Llama

PROJECTIONS = {
    "attention.query": "self_attn.q_proj", "attention.key": "self_attn.k_proj", "attention.value": "self_attn.v_proj",
    "attention.output": "self_attn.o_proj", "mlp.gate": "mlp.gate_proj", "mlp.up": "mlp.up_proj",
    "mlp.down": "mlp.down_proj",
}  # fmt: skip


def projection(name: str) -> str:
    """ "layers.0.mlp.up" -> "model.layers.0.mlp.up_proj.weight"."""
    _, layer, matrix = name.split(".", 2)
    return f"model.layers.{layer}.{PROJECTIONS[matrix]}.weight"


def dense_parameters(model: Llama) -> Iterator[tuple[str, nn.Parameter]]:
    """(their name, ours) of everything that is never sparse."""
    yield "model.embed_tokens.weight", model.embedding
    for n, layer in enumerate(model.layers):
        norms: list[Tensor | nn.Module] = [layer.attention_norm, layer.mlp_norm]
        for theirs, norm in zip(("input_layernorm", "post_attention_layernorm"), norms, strict=True):
            assert isinstance(norm, nn.Module)
            assert isinstance(norm.weight, nn.Parameter)
            yield f"model.layers.{n}.{theirs}.weight", norm.weight
    yield "model.norm.weight", model.norm.weight
    yield "lm_head.weight", model.head
