"""A decoding step in few kernels: seven a layer on CUDA, with the residual stream in float32 between them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lightning_cispo.configs.schema import ModelConfig
from lightning_cispo.kernels.decoding.attention_triton import decode_attention, workspace
from lightning_cispo.kernels.decoding.experts_triton import Roster, decode_experts
from lightning_cispo.kernels.decoding.head_triton import decode_head
from lightning_cispo.kernels.decoding.linear_triton import Tiles, decode_linear
from lightning_cispo.kernels.decoding.route_triton import decode_route
from lightning_cispo.kernels.decoding.rows_triton import Stream, decode_combine, decode_enter
from lightning_cispo.kernels.lightning.decode_triton import columns_of, gated_lightning_decode
from lightning_cispo.model.attention import LightningAttention
from lightning_cispo.model.generation.cache import DecodeCache
from lightning_cispo.model.generation.rows import Rows
from lightning_cispo.model.network import MiniMax

_OUT_PARTS = 4  # shares of the inputs of a projection back to the hidden size: it has few outputs


class FusedStep:
    """Logits after one token for each of the first rows, in buffers that every batch size shares.

    Sums run in an order that depends on neither the batch nor a row's place in it: the same row gives the same bits.
    Weights are read where they lie, so that replacing them in place is all an update takes. `choices_LBK` holds the
    experts of the last step, -1 for idle rows.
    """

    def __init__(self, network: MiniMax, cache: DecodeCache, rows: Rows, pdl: bool = True):
        self.network, self.cache, self.rows = network, cache, rows
        config, slots, device = network.config, cache.slots, network.lm_head.weight.device
        self.pdl = pdl and overlaps(device)
        heads, dim, hidden = config.num_attention_heads, config.head_dim, config.hidden_size
        narrow: dict[str, Any] = {"dtype": network.compute_dtype, "device": device}
        choices = slots * config.num_experts_per_tok
        self.residual = torch.empty(slots, hidden, device=device)
        self.x = torch.empty(slots, hidden, **narrow)
        self.joined = torch.empty(slots * 4 * heads * dim, device=device)
        self.mixed = torch.empty(slots, heads * dim, **narrow)
        self.squares = torch.empty(slots, heads * -(-dim // columns_of(dim)), device=device)
        self.parts = torch.empty(_OUT_PARTS * slots * hidden, device=device)
        self.inner = torch.empty(choices, config.intermediate_size, **narrow)
        self.outer = torch.empty(choices, hidden, device=device)
        layers = config.num_hidden_layers
        top_k = config.num_experts_per_tok
        self.choices_LBK = torch.full((layers, slots, top_k), -1, dtype=torch.int32, device=device)
        self.shares = torch.empty(slots, top_k, device=device)
        self.count_LE, self.rosters = Roster.empty(layers, config.num_local_experts, slots, device)
        self.logits = torch.empty(slots, config.vocab_size, device=device)
        tokens = cache.table_SM.shape[1] * cache.page_tokens
        self.partial, self.lse = workspace(slots, heads, dim, tokens, cache.page_tokens, device)
        exponent = torch.arange(0, config.rope_dims, 2, dtype=torch.float32, device=device) / config.rope_dims
        self.inverse = 1.0 / config.rope_theta**exponent

    def __call__(self, rows: int) -> Tensor:
        """Logits [rows, V] for `rows.token` at `rows.position`."""
        network, tiles = self.network, tiles_for(rows, self.network.config)
        layers = network.model.layers
        norms: list[Any] = [layer.input_layernorm for layer in layers] + [network.model.norm]
        embedding, stream = network.model.embed_tokens.weight, self._stream(rows, norms[0])
        decode_enter(self.rows.token[:rows], embedding, stream, self.count_LE, pdl=self.pdl)
        layer: Any
        for index, layer in enumerate(layers):
            self._attend(index, layer, rows, tiles)
            choice, share = self.choices_LBK[index, :rows], self.shares[:rows]
            inner, outer = (buffer[: choice.numel()] for buffer in (self.inner, self.outer))
            weights = layer.mlp.experts.gate_up_proj, layer.mlp.experts.down_proj
            sizes = tiles["gate_up"], tiles["down"]
            top_k, roster = choice.shape[1], self.rosters[index]
            decode_experts(self.x[:rows], top_k, roster, *weights, inner, outer, sizes, pdl=self.pdl)
            decode_combine(outer, choice, share, self._stream(rows, norms[index + 1], layer.mlp_scale), pdl=self.pdl)
        decode_head(self.x[:rows], network.lm_head.weight, self.logits[:rows], tiles["head"], pdl=self.pdl)
        return self.logits[:rows]

    def _stream(self, rows: int, norm: Any, scale: tuple[float, float] = (1.0, 1.0)) -> Stream:
        postnorm = self.network.config.postnorm
        return Stream(self.residual[:rows], self.x[:rows], norm.weight, norm.eps, postnorm, *scale)

    def _attend(self, index: int, layer: Any, rows: int, tiles: dict[str, Tiles]) -> None:
        """Attention up to the choice of experts."""
        attention, position, mixed = layer.self_attn, self.rows.position[:rows], self.mixed[:rows]
        squares, eps = None, 0.0
        projections: tuple[Tensor, ...]
        if isinstance(attention, LightningAttention):
            projections = attention.qkv_proj.weight, attention.output_gate.weight
            joined = self._joined(rows, *projections, tiles=tiles, gated=True)
            squares, eps = self.squares[:rows], attention.norm.eps
            slopes, state = attention.slopes(joined.device), self.cache.states[index]
            gated_lightning_decode(joined, attention.norm.weight, slopes, position, state, mixed, squares, pdl=self.pdl)
            out = attention.out_proj.weight
        else:
            projections = attention.q_proj.weight, attention.k_proj.weight, attention.v_proj.weight
            joined = self._joined(rows, *projections, tiles=tiles, gated=False)
            cache, heads = self.cache, self.network.config.num_attention_heads
            pages = cache.keys[index], cache.values[index], cache.table_SM[:rows]
            decode_attention(joined, self.inverse, *pages, position, heads, self.partial, self.lse, mixed, pdl=self.pdl)
            out = attention.o_proj.weight
        parts = self.parts[: _OUT_PARTS * rows * len(out)].view(_OUT_PARTS, rows, len(out))
        decode_linear(mixed, (out,), parts, False, tiles["out"], pdl=self.pdl)
        stream = self._stream(rows, layer.post_attention_layernorm, layer.attention_scale)
        choices = self.choices_LBK[index, :rows], self.shares[:rows], self.rosters[index]
        router = layer.mlp.gate.weight
        decode_route(parts, squares, mixed.shape[1], eps, position, router, stream, *choices, pdl=self.pdl)

    def _joined(self, rows: int, *weights: Tensor, tiles: dict[str, Tiles], gated: bool) -> Tensor:
        width = sum(map(len, weights))
        joined = self.joined[: rows * width].view(rows, width)
        decode_linear(self.x[:rows], weights, joined, gated, tiles["in"], pdl=self.pdl)
        return joined


def overlaps(device: torch.device) -> bool:
    """Whether a launch may begin there before the one before it has ended."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= (9, 0)


def tiles_for(rows: int, config: ModelConfig) -> dict[str, Tiles]:
    """Tiles by product, measured on an H100. They change how the work is laid out, and no bit of the results.

    The head's inputs are the same for any batch: of each tile the weights' low parts come first.
    """
    few = rows <= 64
    # Twice an expert's rows on average: few experts then need a second tile, which reads their weights again.
    share = 2 * rows * config.num_experts_per_tok / config.num_local_experts
    chosen = 16 if share <= 16 else 32 if share <= 32 else 64
    many = chosen == 64
    narrow = 16 if rows <= 16 else 32
    return {
        "in": Tiles(inputs=256, rows=narrow, stages=3) if few else Tiles(inputs=64, rows=128),
        "out": Tiles(rows=narrow) if few else Tiles(inputs=64, rows=128),
        "gate_up": Tiles(128, 64, 64, 8, 4) if many else Tiles(inputs=2048 // chosen, rows=chosen, stages=3),
        "down": Tiles(inputs=64, rows=64) if many else Tiles(rows=chosen, stages=3),
        "head": Tiles(128, 32, narrow if rows <= 32 else 64 if few else 128, 8, 6 if rows <= 32 else 4),
    }
