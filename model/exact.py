"""The exact mode: the network's modules with every row computed for itself, alike in learner and sampler."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kernels import exact, exact_mixers
from model.attention import LightningAttention, Paging, SoftmaxAttention
from model.layers import Linear, LMHead, Packed, RMSNorm, at_least_float32
from model.moe import Experts, MoE, SharedExpert
from model.routing import Routing

TILE = 64  # tokens of a tile on GPUs, and so of a page


class ExactLinear(Linear):
    def forward(self, x: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """With a `dtype`, float32 or better, the weights stay as they are."""
        return exact.linear(x, self.weight if dtype else self.weight.to(x.dtype), dtype)


class ExactLMHead(LMHead):
    def forward(self, hidden_TX: Tensor, targets_T: Tensor | None = None, temperature: float = 1.0) -> Any:
        if targets_T is None:
            return exact.linear(hidden_TX, self.weight, at_least_float32(hidden_TX.dtype))
        return exact.exact_logprobs(hidden_TX, self.weight, targets_T, temperature)


class ExactRMSNorm(RMSNorm):
    def forward(self, x: Tensor, gate: Tensor | None = None) -> Tensor:
        normed = exact.rms_norm(x, self.weight, self.eps)
        return normed if gate is None else exact.pointwise(torch.sigmoid, gate) * normed


class ExactLightningAttention(LightningAttention):
    """On GPUs a sequence has the state before the tile that it stands in, and a tail: the tile's keys and values."""

    def _qkv(self, x_TX: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        qkv_TJ = exact.pointwise(F.silu, self.qkv_proj(x_TX))
        q, k, v = qkv_TJ.view(len(x_TX), self.heads, 3 * self.dim).split(self.dim, dim=-1)
        return q, k, v

    def forward(self, x_TX: Tensor, packed: Packed) -> Tensor:
        past = packed.past.states[self.layer] if packed.past else None
        q, k, v = self._qkv(x_TX)
        slopes_H, future = self.slopes(x_TX.device), packed.future
        o_THD, state = exact_mixers.lightning(q, k, v, slopes_H, packed.cu_seqlens, past, future is not None)
        if future is not None and state is not None:
            future.states[self.layer] = state
            if x_TX.is_cuda:
                future.tails[self.layer] = _tails(k, v, packed.cu_seqlens)
        return self._output(x_TX, o_THD)

    def decode(
        self, x_BX: Tensor, state_BHDD: Tensor, tail: Tensor | None = None, position_B: Tensor | None = None
    ) -> Tensor:
        q, k, v = self._qkv(x_BX)
        if tail is None or position_B is None:
            return self._output(x_BX, exact_mixers.lightning_token(q, k, v, self.slopes(x_BX.device), state_BHDD))
        from kernels.exact_lightning_triton import lightning_decode_triton

        o_BHD = lightning_decode_triton(q, k, v, self.slopes(x_BX.device), position_B, state_BHDD, tail)
        return self._output(x_BX, o_BHD)


def _tails(k_THD: Tensor, v_THD: Tensor, cu_seqlens: Tensor) -> Tensor:
    """[S, TILE, 2, H, D]: keys and values after each sequence's last whole tile, then whatever."""
    ends_S = cu_seqlens[1:]
    starts_S = ends_S - (ends_S - cu_seqlens[:-1]) % TILE
    rows_SC = starts_S[:, None] + torch.arange(TILE, device=k_THD.device)
    return torch.stack([k_THD, v_THD], dim=1)[rows_SC.clamp(max=len(k_THD) - 1)]


class ExactSoftmaxAttention(SoftmaxAttention):
    def _attend(self, q: Tensor, k: Tensor, v: Tensor, packed: Packed) -> Tensor:
        return exact_mixers.attention(q, k, v, packed.cu_seqlens, packed.cu_seqlens_k)

    def _attend_pages(self, q: Tensor, keys: Tensor, values: Tensor, paging: Paging) -> Tensor:
        return exact_mixers.paged_attention(q, keys, values, paging.table_BM, paging.lengths_B)


class ExactExperts(Experts):
    def forward(self, x_TX: Tensor, expert_TK: Tensor, weight_TK: Tensor) -> Tensor:
        return exact.moe_experts(x_TX, expert_TK, weight_TK, self.gate_up_proj, self.down_proj)


class ExactMoE(MoE):
    def forward(self, x_TX: Tensor, routing: Routing | None = None) -> tuple[Tensor, Tensor]:
        logits_TE = self.gate(x_TX, at_least_float32(x_TX.dtype))
        weight_TK, expert_TK = (routing or Routing()).choose(self.layer, logits_TE.softmax(-1), self.top_k)
        weight_TK = weight_TK / exact.ordered_sum(weight_TK.unbind(-1))[:, None]
        return self.experts(x_TX, expert_TK, weight_TK), logits_TE


class ExactSharedExpert(SharedExpert):
    def forward(self, x_TX: Tensor) -> Tensor:
        return self.down_proj(exact.pointwise(F.silu, self.gate_proj(x_TX)) * self.up_proj(x_TX))


_EXACT: dict[type[nn.Module], type[nn.Module]] = {
    Linear: ExactLinear,
    LMHead: ExactLMHead,
    RMSNorm: ExactRMSNorm,
    LightningAttention: ExactLightningAttention,
    SoftmaxAttention: ExactSoftmaxAttention,
    Experts: ExactExperts,
    MoE: ExactMoE,
    SharedExpert: ExactSharedExpert,
}


def make_exact(network: nn.Module) -> None:
    """Its layers compute exactly from now on; parameters and their names stay."""
    module: Any
    for module in network.modules():
        module.__class__ = _EXACT.get(type(module), type(module))
