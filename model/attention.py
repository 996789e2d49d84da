"""The two token mixers: lightning attention and softmax attention with grouped keys."""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from lightning_cispo.configs.schema import ModelConfig
from lightning_cispo.kernels.attention import varlen_attention
from lightning_cispo.kernels.lightning import lightning_decode
from lightning_cispo.kernels.lightning.qkv import silu_lightning
from lightning_cispo.kernels.paged import paged_attention
from lightning_cispo.kernels.silu import silu_qkv
from lightning_cispo.model.layers import Linear, Packed, RMSNorm, join_packed, rotate


def alibi_slopes(heads: int) -> list[float]:
    """ALiBi's slopes (Press et al. 2021); not a power of two: every other slope of the next power is added."""
    power = 2 ** math.floor(math.log2(heads))
    slopes = [2.0 ** (-8.0 * (h + 1) / power) for h in range(power)]
    if power < heads:
        slopes += alibi_slopes(2 * power)[0::2][: heads - power]
    return slopes


@functools.cache
def layer_slopes(heads: int, layer: int, layers: int, device: torch.device) -> Tensor:
    """Decay per token of each head [H], float64; kernels use float32: bf16 rounds many an exp(-s) to 1."""
    factor = 1 - layer / (layers - 1) + 1e-5 if layers > 1 else 1 + 1e-5
    with torch.inference_mode(False):  # kept for a learner too, whoever asks first
        return torch.tensor(alibi_slopes(heads), dtype=torch.float64, device=device) * factor


class LightningAttention(nn.Module):
    """silu(qkv) interleaved per head, linear attention with decay, RMSNorm over all heads, sigmoid output gate."""

    def __init__(self, config: ModelConfig, layer: int):
        super().__init__()
        self.heads, self.dim = config.num_attention_heads, config.head_dim
        self.layer, self.layers = layer, config.num_hidden_layers
        width = self.heads * self.dim
        self.qkv_proj = Linear(config.hidden_size, 3 * width)
        self.output_gate = Linear(config.hidden_size, width)
        self.out_proj = Linear(width, config.hidden_size)
        self.norm = RMSNorm(width, config.linear_norm_eps)

    def slopes(self, device: torch.device) -> Tensor:
        return layer_slopes(self.heads, self.layer, self.layers, device)

    def _output(self, x_TX: Tensor, o_THD: Tensor) -> Tensor:
        return self.out_proj(self.norm(o_THD.flatten(1), self.output_gate(x_TX)))

    def forward(self, x_TX: Tensor, packed: Packed) -> Tensor:
        past = packed.past.states[self.layer] if packed.past else None
        o_THD, state = self._attend(self.qkv_proj(x_TX), packed.cu_seqlens, past, packed.future is not None)
        if packed.future is not None and state is not None:
            packed.future.states[self.layer] = state
        return self._output(x_TX, o_THD)

    def _attend(
        self, qkv_TJ: Tensor, cu_seqlens: Tensor, past: Tensor | None, wanted: bool
    ) -> tuple[Tensor, Tensor | None]:
        # The positions of a pass were counted by these borders, and that they end at T was asserted there.
        return silu_lightning(qkv_TJ, self.slopes(qkv_TJ.device), cu_seqlens, past, wanted, checked=True)

    def decode(self, x_BX: Tensor, state_BHDD: Tensor) -> Tensor:
        """One token a sequence; the state is updated in place."""
        q, k, v = silu_qkv(self.qkv_proj(x_BX), self.heads)
        return self._output(x_BX, lightning_decode(q, k, v, self.slopes(x_BX.device), state_BHDD))


class Paging(NamedTuple):
    """Where one token of each of B sequences goes, and where its left context lies."""

    page_B: Tensor
    offset_B: Tensor  # within the page
    table_BM: Tensor  # the pages of each sequence, in their order
    lengths_B: Tensor  # tokens of each, this one included


class SoftmaxAttention(nn.Module):
    """Causal attention with grouped keys; RoPE on the first `rope_dims` of each head."""

    def __init__(self, config: ModelConfig, layer: int):
        super().__init__()
        self.layer, self.dim = layer, config.head_dim
        width, kv_width = config.num_attention_heads * self.dim, config.num_key_value_heads * self.dim
        self.q_proj = Linear(config.hidden_size, width)
        self.k_proj = Linear(config.hidden_size, kv_width)
        self.v_proj = Linear(config.hidden_size, kv_width)
        self.o_proj = Linear(width, config.hidden_size)

    def _qkv(self, x_TX: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = (proj(x_TX).unflatten(-1, (-1, self.dim)) for proj in (self.q_proj, self.k_proj, self.v_proj))
        return self._rotate(q, cos, sin), self._rotate(k, cos, sin), v

    def forward(self, x_TX: Tensor, packed: Packed) -> Tensor:
        q, k, v = self._qkv(x_TX, packed.cos, packed.sin)
        if packed.past is not None:
            lengths_S = packed.past.lengths_S
            k = join_packed(packed.past.keys[self.layer], lengths_S, k, packed.cu_seqlens)
            v = join_packed(packed.past.values[self.layer], lengths_S, v, packed.cu_seqlens)
        if packed.future is not None:
            packed.future.keys[self.layer], packed.future.values[self.layer] = k, v
        return self.o_proj(self._attend(q, k, v, packed).flatten(1))

    def decode(self, x_BX: Tensor, cos: Tensor, sin: Tensor, keys: Tensor, values: Tensor, paging: Paging) -> Tensor:
        """One token a sequence; its key and value are written into the pages [N, Kv, P, D]."""
        q, k, v = self._qkv(x_BX, cos, sin)
        keys[paging.page_B, :, paging.offset_B], values[paging.page_B, :, paging.offset_B] = k, v
        return self.o_proj(self._attend_pages(q, keys, values, paging).flatten(1))

    def _rotate(self, x_THD: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        return rotate(x_THD, cos, sin)

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, packed: Packed) -> Tensor:
        return varlen_attention(q, k, v, packed.cu_seqlens, packed.cu_seqlens_k)

    def _attend_pages(self, q: Tensor, keys: Tensor, values: Tensor, paging: Paging) -> Tensor:
        return paged_attention(q, keys, values, paging.table_BM, paging.lengths_B)
