"""The exact mode: the network's modules with every row computed for itself, alike in learner and sampler."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from lightning_cispo.kernels.exact import layers as exact
from lightning_cispo.kernels.exact import mixers as exact_mixers
from lightning_cispo.model.attention import LightningAttention, Paging, SoftmaxAttention
from lightning_cispo.model.layers import (
    AddedStreamNorm,
    Linear,
    LMHead,
    Packed,
    RMSNorm,
    StreamNorm,
    at_least_float32,
    rotate,
    swap_classes,
)
from lightning_cispo.model.moe import Experts, MoE, Router
from lightning_cispo.model.routing import Routing

TILE = 64  # tokens of a tile on GPUs, and so of a page


class ExactLinear(Linear):
    def forward(self, x: Tensor) -> Tensor:
        return exact.linear(x, self.weight)


class ExactRouter(Router):
    def forward(self, x_TX: Tensor) -> Tensor:
        return exact.router_logits(x_TX, self.weight)


class ExactLMHead(LMHead):
    def forward(
        self,
        hidden_TX: Tensor,
        targets_T: Tensor | None = None,
        temperature: float = 1.0,
        token_weights_T: Tensor | None = None,
    ) -> Any:
        if targets_T is None:
            return exact.linear(hidden_TX, self.weight, at_least_float32(hidden_TX.dtype))
        found = exact.exact_logprobs(hidden_TX, self.weight, targets_T, temperature)
        return found if token_weights_T is None else tuple(x * token_weights_T for x in found)


class ExactRMSNorm(RMSNorm):
    def forward(self, x: Tensor, gate: Tensor | None = None, dtype: torch.dtype | None = None) -> Tensor:
        return exact.rms_norm(x, self.weight, self.eps, gate)


class ExactStreamNorm(StreamNorm):
    """The exact stream is no wider than its layers."""

    def forward(self, x_TX: Tensor, dtype: torch.dtype, postnorm: bool) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        return exact.stream_norm(x_TX, self.weight, self.eps, postnorm)


class ExactAddedStreamNorm(AddedStreamNorm):
    def forward(  # type: ignore[override]
        self, residual_TX: Tensor, update_TX: Tensor, scales: tuple[float, float], postnorm: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        return exact.added_stream_norm(residual_TX, update_TX, scales, self.weight, self.eps, postnorm)


class ExactLightningAttention(LightningAttention):
    """On GPUs a sequence has the state before the tile that it stands in, and a tail: the tile's keys and values."""

    def forward(self, x_TX: Tensor, packed: Packed) -> Tensor:
        past, future = packed.past.states[self.layer] if packed.past else None, packed.future
        qkv_TJ = self.qkv_proj(x_TX)
        slopes_H = self.slopes(x_TX.device)
        o_THD, state = exact_mixers.lightning(qkv_TJ, slopes_H, packed.cu_seqlens, past, future is not None)
        if future is not None and state is not None:
            future.states[self.layer] = state
            if x_TX.is_cuda:
                future.tails[self.layer] = exact_mixers.tails(qkv_TJ, self.heads, packed.cu_seqlens)
        return self._output(x_TX, o_THD)

    def decode(self, x_BX: Tensor, *held: Tensor) -> Tensor:
        o_BHD = exact_mixers.lightning_decode(self.qkv_proj(x_BX), self.slopes(x_BX.device), *held)
        return self._output(x_BX, o_BHD)


class ExactSoftmaxAttention(SoftmaxAttention):
    def _rotate(self, x_THD: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        return exact_mixers.rotate(x_THD, cos, sin, rotate)

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, packed: Packed) -> Tensor:
        return exact_mixers.attention(q, k, v, packed.cu_seqlens, packed.cu_seqlens_k)

    def _attend_pages(self, q: Tensor, keys: Tensor, values: Tensor, paging: Paging) -> Tensor:
        return exact_mixers.paged_attention(q, keys, values, paging.table_BM, paging.lengths_B)


class ExactExperts(Experts):
    def forward(self, x_TX: Tensor, expert_TK: Tensor, weight_TK: Tensor) -> Tensor:
        return exact.moe_experts(x_TX, expert_TK, weight_TK, self.gate_up_proj, self.down_proj)


class ExactMoE(MoE):
    def forward(
        self, x_TX: Tensor, routing: Routing | None = None, unrounded_TX: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """The exact stream is no wider than x."""
        logits_TE = self.gate(x_TX)
        weight_TK, expert_TK = exact.route(logits_TE, None, self.top_k)
        if routing is not None and (given_TK := routing.settle(self.layer, expert_TK)) is not expert_TK:
            weight_TK, expert_TK = exact.route(logits_TE, given_TK, self.top_k)
        return self.experts(x_TX, expert_TK, weight_TK), logits_TE


_EXACT: dict[type[nn.Module], type[nn.Module]] = {
    Linear: ExactLinear,
    Router: ExactRouter,
    LMHead: ExactLMHead,
    RMSNorm: ExactRMSNorm,
    StreamNorm: ExactStreamNorm,
    AddedStreamNorm: ExactAddedStreamNorm,
    LightningAttention: ExactLightningAttention,
    SoftmaxAttention: ExactSoftmaxAttention,
    Experts: ExactExperts,
    MoE: ExactMoE,
}


def make_exact(network: nn.Module) -> None:
    """Its layers compute exactly from now on."""
    swap_classes(network, _EXACT)
