"""Names and shapes of the parameters, in memory and on disk, from the config alone. Imports no torch.

In memory a layer's experts are stacked into two parameters; on disk every expert has three tensors of its own. The
flattened in-memory parameter is always the concatenation of its flattened tensors on disk.
"""

from __future__ import annotations

import math
import re
from typing import NamedTuple

from lightning_cispo.configs.schema import SOFTMAX, ModelConfig

Shape = tuple[int, ...]
# Persistent buffers that transformers' port writes beside the weights.
IGNORED = re.compile(r"\.self_attn\.(slope_rate|query_decay|key_decay|diagonal_decay)$")


class Piece(NamedTuple):
    """One tensor on disk."""

    key: str
    shape: Shape

    @property
    def numel(self) -> int:
        return math.prod(self.shape)


def parameter_shapes(config: ModelConfig) -> dict[str, Shape]:
    """Shape of every parameter by its in-memory name, in the network's order of definition."""
    hidden = config.hidden_size
    shapes: dict[str, Shape] = {"model.embed_tokens.weight": (config.vocab_size, hidden)}
    for layer in range(config.num_hidden_layers):
        shapes |= {f"model.layers.{layer}.{name}": shape for name, shape in _layer_shapes(config, layer).items()}
    shapes["model.norm.weight"] = (hidden,)
    if not config.tie_word_embeddings:
        shapes["lm_head.weight"] = (config.vocab_size, hidden)
    return shapes


def _layer_shapes(config: ModelConfig, layer: int) -> dict[str, Shape]:
    hidden, experts, inner = config.hidden_size, config.num_local_experts, config.intermediate_size
    width, kv_width = config.num_attention_heads * config.head_dim, config.num_key_value_heads * config.head_dim
    shapes: dict[str, Shape]
    if config.layer_types[layer] == SOFTMAX:
        shapes = {
            "self_attn.q_proj.weight": (width, hidden),
            "self_attn.k_proj.weight": (kv_width, hidden),
            "self_attn.v_proj.weight": (kv_width, hidden),
            "self_attn.o_proj.weight": (hidden, width),
        }
    else:
        shapes = {
            "self_attn.qkv_proj.weight": (3 * width, hidden),
            "self_attn.output_gate.weight": (width, hidden),
            "self_attn.out_proj.weight": (hidden, width),
            "self_attn.norm.weight": (width,),
        }
    shapes |= {
        "mlp.gate.weight": (experts, hidden),
        "mlp.experts.gate_up_proj": (experts, 2 * inner, hidden),
        "mlp.experts.down_proj": (experts, hidden, inner),
        "input_layernorm.weight": (hidden,),
        "post_attention_layernorm.weight": (hidden,),
    }
    if shared := config.shared_intermediate_size:
        shapes |= {
            "shared_mlp.gate_proj.weight": (shared, hidden),
            "shared_mlp.up_proj.weight": (shared, hidden),
            "shared_mlp.down_proj.weight": (hidden, shared),
            "coefficient.weight": (1, hidden),
        }
    return shapes


def pieces(name: str, shape: Shape) -> list[Piece]:
    """The tensors on disk that make up the in-memory parameter, in the order of its memory."""
    prefix, _, kind = name.replace(".mlp.", ".block_sparse_moe.").rpartition(".")
    if kind == "gate_up_proj":
        half = (shape[1] // 2, shape[2])
        return [Piece(f"{prefix}.{e}.{w}.weight", half) for e in range(shape[0]) for w in ("w1", "w3")]
    if kind == "down_proj":
        return [Piece(f"{prefix}.{e}.w2.weight", shape[1:]) for e in range(shape[0])]
    return [Piece(f"{prefix}.{kind}", shape)]


def is_router(name: str) -> bool:
    """Router weights stay float32 whatever the rest is stored in. Takes names of either side."""
    return name.endswith((".mlp.gate.weight", ".block_sparse_moe.gate.weight"))
