"""Parameters, bytes and FLOPs of a model, as functions of its config. Imports no torch."""

from __future__ import annotations

import math
from dataclasses import dataclass

from lightning_cispo.configs.schema import LIGHTNING, SOFTMAX, ModelConfig
from lightning_cispo.model.layout import is_router, parameter_shapes


@dataclass(frozen=True)
class Counts:
    total: int
    active: int  # read for one token, without embedding and LM head, as the M1 report counts its 45.9B


def count_parameters(config: ModelConfig) -> Counts:
    sizes = {name: math.prod(shape) for name, shape in parameter_shapes(config).items()}
    total = sum(sizes.values())
    experts = sum(size for name, size in sizes.items() if ".experts." in name)
    idle = experts // config.num_local_experts * (config.num_local_experts - config.num_experts_per_tok)
    outside = sum(size for name, size in sizes.items() if name in ("model.embed_tokens.weight", "lm_head.weight"))
    return Counts(total, total - idle - outside)


def checkpoint_bytes(config: ModelConfig, itemsize: int = 2) -> int:
    """Bytes of all tensors on disk: `itemsize` a number, 4 for the router's."""
    shapes = parameter_shapes(config).items()
    return sum(math.prod(shape) * (4 if is_router(name) else itemsize) for name, shape in shapes)


def state_bytes(config: ModelConfig) -> int:
    """Lightning state of one sequence of any length, float32."""
    return config.layer_types.count(LIGHTNING) * config.num_attention_heads * config.head_dim**2 * 4


def tail_bytes(config: ModelConfig, tokens: int, itemsize: int = 2) -> int:
    """Keys and values of a lightning tile of `tokens`, which the exact mode keeps of a sequence."""
    return config.layer_types.count(LIGHTNING) * 2 * config.num_attention_heads * config.head_dim * itemsize * tokens


def kv_bytes(config: ModelConfig, tokens: int = 1, itemsize: int = 2) -> int:
    """Keys and values of one sequence."""
    layers = config.layer_types.count(SOFTMAX)
    return layers * 2 * config.num_key_value_heads * config.head_dim * itemsize * tokens


def routing_bytes(config: ModelConfig, tokens: int = 1) -> int:
    """Expert choices of one sequence, where they are recorded."""
    itemsize = 1 if config.num_local_experts < 256 else 2
    return config.num_hidden_layers * config.num_experts_per_tok * itemsize * tokens


def flops_per_token(config: ModelConfig, length: int) -> int:
    """Forward FLOPs of the token that `length` tokens precede: two a multiplication and addition.

    Matrix products with every active weight and the LM head; 6 D^2 a head for decaying, adding to and reading a
    lightning state; 4 D a head and preceding token in a softmax layer. Norms, RoPE and activations are left out.
    """
    heads, dim = config.num_attention_heads, config.head_dim
    matmul = 2 * (count_parameters(config).active + config.vocab_size * config.hidden_size)
    lightning = config.layer_types.count(LIGHTNING) * heads * 6 * dim**2
    return matmul + lightning + config.layer_types.count(SOFTMAX) * heads * 4 * dim * length


def deepseek_r1_flops_per_token(length: int) -> int:
    """The same count for DeepSeek-R1, as a yardstick.

    Assumes 37B active parameters and 61 layers of 128 heads with 192 dims in q.k and 128 in the values (DeepSeek-V3
    report, arXiv 2412.19437), keys and values expanded; decoding in the absorbed form costs 3.4 times that attention,
    to save bandwidth.
    """
    return 2 * 37_000_000_000 + 61 * 128 * 2 * (192 + 128) * length


@dataclass(frozen=True)
class TrainingBytes:
    """Bytes one device holds through training: no activations, and none of DeepSpeed's communication buckets."""

    parameters: int
    gradients: int
    optimizer: int  # Adam's two moments and, with ZeRO, the float32 copy it steps on

    @property
    def total(self) -> int:
        return self.parameters + self.gradients + self.optimizer


def training_bytes(config: ModelConfig, world_size: int = 1, zero_stage: int = 0) -> TrainingBytes:
    """Float32 parameters, gradients and Adam state on one of `world_size` devices.

    ZeRO cuts the optimizer state from stage 1, gradients from 2, parameters from 3.
    """
    whole = 4 * count_parameters(config).total
    share = -(-whole // world_size)
    return TrainingBytes(
        parameters=share if zero_stage >= 3 else whole,
        gradients=share if zero_stage >= 2 else whole,
        optimizer=3 * share if zero_stage >= 1 else 2 * whole,
    )
