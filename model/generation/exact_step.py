"""A decoding step of the exact mode in few kernels: nine a layer on CUDA, and the learner's bits.

What the learner rounds is rounded here, and what it sums is summed in its order: matrix products along the inputs,
norms by the learner's own code, mixers by tiles of 64 tokens.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lightning_cispo.kernels.decoding.experts_triton import Roster, decode_experts
from lightning_cispo.kernels.decoding.head_triton import decode_head
from lightning_cispo.kernels.decoding.linear_triton import Tiles, decode_linear
from lightning_cispo.kernels.exact import step_triton as by_row
from lightning_cispo.kernels.exact.attention_triton import paged_triton, workspace
from lightning_cispo.kernels.exact.lightning_triton import lightning_decode_triton
from lightning_cispo.kernels.exact.linear_triton import ROUTER_COLUMNS
from lightning_cispo.kernels.exact.rotary_triton import place_triton
from lightning_cispo.kernels.experts.moe import by_row as by_row_experts
from lightning_cispo.model.attention import LightningAttention
from lightning_cispo.model.generation.cache import DecodeCache
from lightning_cispo.model.generation.fused import overlaps, tiles_for
from lightning_cispo.model.generation.rows import Rows
from lightning_cispo.model.network import MiniMax


class ExactStep:
    """Logits after one token for each of the first rows, in buffers that every batch size shares.

    As `FusedStep`, `choices_LBK` holds the experts of the last step, -1 for idle rows.
    """

    def __init__(self, network: MiniMax, cache: DecodeCache, rows: Rows, pdl: bool = True):
        self.network, self.cache, self.rows = network, cache, rows
        config, slots, device = network.config, cache.slots, network.lm_head.weight.device
        self.pdl = pdl and overlaps(device)
        narrow: dict[str, Any] = {"dtype": network.compute_dtype, "device": device}
        width, top_k = config.num_attention_heads * config.head_dim, config.num_experts_per_tok
        # The stream before a layer's two parts, and its norms, which those read.
        self.x, self.normed, self.between, self.normed_between, self.update = (
            torch.empty(slots, config.hidden_size, **narrow) for _ in range(5)
        )
        self.joined = torch.empty(slots * 4 * width, **narrow)
        self.turned, self.mixed, self.gated = (torch.empty(slots, width, **narrow) for _ in range(3))
        self.inner = torch.empty(slots * top_k, config.intermediate_size, **narrow)
        self.outer = torch.empty(slots * top_k, config.hidden_size, **narrow)
        layers = config.num_hidden_layers
        self.choices_LBK = torch.full((layers, slots, top_k), -1, dtype=torch.int32, device=device)
        self.shares = torch.empty(slots, top_k, device=device)
        self.count_LE, self.rosters = Roster.empty(layers, config.num_local_experts, slots, device)
        self.logits = torch.empty(slots, config.vocab_size, device=device)
        heads, pages = (config.num_attention_heads, config.head_dim), cache.table_SM.shape[1]
        self.space = workspace(slots, *heads, pages, device)
        self.rstd = torch.empty(slots, device=device)  # for nobody: what a norm's backward pass would read

    @staticmethod
    def serves(network: MiniMax) -> bool:
        """Whether the learner's experts and routers run in the kernels whose arithmetic this has."""
        layer: Any = network.model.layers[0]
        if network.config.num_local_experts > ROUTER_COLUMNS:
            return False
        return by_row_experts(layer.input_layernorm.weight, layer.mlp.experts.down_proj)

    def __call__(self, rows: int) -> Tensor:
        """Logits [rows, V] for `rows.token` at `rows.position`."""
        network, tiles = self.network, tiles_for(rows, self.network.config)
        layers, pdl = network.model.layers, self.pdl
        norms: list[Any] = [layer.input_layernorm for layer in layers] + [network.model.norm]
        x, normed, rstd = self.x[:rows], self.normed[:rows], self.rstd[:rows]
        turning = network.rotary(self.rows.position[:rows])
        embedding = network.model.embed_tokens.weight
        by_row.enter(self.rows.token[:rows], embedding, self.count_LE, x, norms[0], normed, rstd)
        layer: Any
        for index, layer in enumerate(layers):
            self._attend(index, layer, rows, tiles, turning)
            between, normed_between = self.between[:rows], self.normed_between[:rows]
            choice, share, roster = self.choices_LBK[index, :rows], self.shares[:rows], self.rosters[index]
            by_row.route(
                normed_between, layer.mlp.gate.weight, self.rows.position[:rows], choice, share, roster, pdl=pdl
            )
            inner, outer = (buffer[: choice.numel()] for buffer in (self.inner, self.outer))
            weights = layer.mlp.experts.gate_up_proj, layer.mlp.experts.down_proj
            sizes = tiles["gate_up"], tiles["down"]
            decode_experts(normed_between, choice.shape[1], roster, *weights, inner, outer, sizes, share, pdl=pdl)
            residual = normed_between if layer.postnorm else between
            by_row.combine(outer, choice, residual, layer.mlp_scale, x, norms[index + 1], normed, rstd, pdl=pdl)
        decode_head(normed, network.lm_head.weight, self.logits[:rows], tiles["head"], pdl=pdl)
        return self.logits[:rows]

    def _attend(
        self, index: int, layer: Any, rows: int, tiles: dict[str, Tiles], turning: tuple[Tensor, Tensor]
    ) -> None:
        """Attention, the residual after it, and its norm."""
        attention, mixed, rstd = layer.self_attn, self.mixed[:rows], self.rstd[:rows]
        lightning = isinstance(attention, LightningAttention)
        if lightning:
            mixed = self._lightning(index, attention, rows, tiles)
        else:
            self._softmax(index, attention, rows, tiles, turning)
        out, update = attention.out_proj if lightning else attention.o_proj, self.update[:rows]
        decode_linear(mixed, (out.weight,), update, False, tiles["out"], pdl=self.pdl)
        residual = self.normed[:rows] if layer.postnorm else self.x[:rows]
        between, norm = self.between[:rows], layer.post_attention_layernorm
        given = between, residual, update, layer.attention_scale, norm, self.normed_between[:rows], rstd
        by_row.norm_after(*given, add=True, pdl=self.pdl)

    def _lightning(self, index: int, attention: LightningAttention, rows: int, tiles: dict[str, Tiles]) -> Tensor:
        qkv, gate = self._apart(rows, (attention.qkv_proj, attention.output_gate), tiles)
        position, mixed, gated = self.rows.position[:rows], self.mixed[:rows], self.gated[:rows]
        held = self.cache.states[index], self.cache.tails[index]
        slopes = attention.slopes(mixed.device)
        lightning_decode_triton(qkv, slopes, position, *held, o_BHD=mixed, pdl=self.pdl)
        given = mixed, mixed, gate, (1.0, 1.0), attention.norm, gated, self.rstd[:rows]
        by_row.norm_after(*given, add=False, pdl=self.pdl)
        return gated

    def _softmax(
        self, index: int, attention: Any, rows: int, tiles: dict[str, Tiles], turning: tuple[Tensor, Tensor]
    ) -> None:
        q, k, v = self._apart(rows, (attention.q_proj, attention.k_proj, attention.v_proj), tiles)
        heads = rows, self.network.config.num_attention_heads, attention.dim
        turned, mixed = self.turned[:rows].view(heads), self.mixed[:rows].view(heads)
        pages = self.cache.keys[index], self.cache.values[index], self.cache.table_SM[:rows]
        position = self.rows.position[:rows]
        place_triton((q, k, v), *turning, turned, *pages, position, pdl=self.pdl)
        paged_triton(turned, *pages, position, mixed, self.space, new=True, pdl=self.pdl)

    def _apart(self, rows: int, maps: tuple[Any, ...], tiles: dict[str, Tiles]) -> list[Tensor]:
        """What up to three linear maps make of the stream's norm, [B, N] each."""
        sizes = [len(part.weight) for part in maps]
        joined = self.joined[: rows * sum(sizes)]
        weights = tuple(part.weight for part in maps)
        decode_linear(self.normed[:rows], weights, joined, False, tiles["in"], pdl=self.pdl)
        return [part.view(rows, -1) for part in joined.split([rows * size for size in sizes])]
