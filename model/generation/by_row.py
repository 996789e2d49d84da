"""Prompts read with every row computed for itself: what one comes to depends on nothing that is read beside it.

cuBLAS rounds otherwise at other row counts, FlashAttention otherwise than attention to a left context does. Here the
network's modules take the kernels whose rows keep their bits, those of the exact mode where it has its own; decoding
(`fused`) has such kernels anyway.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from lightning_cispo.kernels.exact.attention_triton import attention_triton
from lightning_cispo.kernels.exact.linear_triton import dense_triton
from lightning_cispo.kernels.experts.moe import top_experts
from lightning_cispo.kernels.lightning.launch import walk
from lightning_cispo.kernels.norm import launch
from lightning_cispo.kernels.silu import silu_qkv
from lightning_cispo.model.attention import LightningAttention, SoftmaxAttention
from lightning_cispo.model.layers import AddedStreamNorm, Linear, LMHead, Packed, RMSNorm, StreamNorm, swap_classes
from lightning_cispo.model.moe import MoE
from lightning_cispo.model.network import MiniMax
from lightning_cispo.model.routing import Routing


class RowLinear(Linear):
    def forward(self, x_TX: Tensor) -> Tensor:
        return dense_triton(x_TX, self.weight, x_TX.dtype)


class RowLMHead(LMHead):
    def forward(self, hidden_TX: Tensor, targets_T: Tensor | None = None, *options: Any) -> Any:
        if targets_T is not None:
            return super().forward(hidden_TX, targets_T, *options)
        return dense_triton(hidden_TX, self.weight, torch.float32)


class RowRMSNorm(RMSNorm):
    def forward(self, x: Tensor, gate: Tensor | None = None, dtype: torch.dtype | None = None) -> Tensor:
        if gate is not None:
            return launch.GatedRMSNorm.apply(x, gate, self.weight, self.eps, True)
        return launch.RMSNorm.apply(x, self.weight, self.eps, dtype or x.dtype, True)


class RowStreamNorm(StreamNorm):
    def forward(self, x_TX: Tensor, dtype: torch.dtype, postnorm: bool) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        return launch.StreamNorm.apply(x_TX, self.weight, self.eps, dtype, postnorm, True)


class RowAddedStreamNorm(AddedStreamNorm):
    def forward(  # type: ignore[override]
        self, residual_TX: Tensor, update_TX: Tensor, scales: tuple[float, float], postnorm: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        return launch.AddedStreamNorm.apply(residual_TX, update_TX, scales, self.weight, self.eps, postnorm, True)


class RowLightningAttention(LightningAttention):
    """Sequences as a whole: what they are cut into would depend on how many there are."""

    def _attend(
        self, qkv_TJ: Tensor, cu_seqlens: Tensor, past: Tensor | None, wanted: bool
    ) -> tuple[Tensor, Tensor | None]:
        qkv = silu_qkv(qkv_TJ, self.heads)
        return walk(*qkv, self.slopes(qkv_TJ.device), cu_seqlens, past, wanted, None)


class RowSoftmaxAttention(SoftmaxAttention):
    def _attend(self, q: Tensor, k: Tensor, v: Tensor, packed: Packed) -> Tensor:
        return attention_triton(q, k, v, packed.cu_seqlens, packed.cu_seqlens_k)


class RowMoE(MoE):
    def forward(
        self, x_TX: Tensor, routing: Routing | None = None, unrounded_TX: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Whatever the number of rows, as `MoE` does for many of them; `routing` may collect the choices."""
        logits_TE = self.gate(x_TX if unrounded_TX is None else unrounded_TX)
        weight_TK, expert_TK = top_experts(logits_TE, self.top_k)
        if routing is not None and routing.settle(self.layer, expert_TK) is not expert_TK:
            raise ValueError("an engine keeps to no given experts")
        return self.experts(x_TX, expert_TK, weight_TK), logits_TE


_BY_ROW: dict[type[nn.Module], type[nn.Module]] = {
    Linear: RowLinear,
    LMHead: RowLMHead,
    RMSNorm: RowRMSNorm,
    StreamNorm: RowStreamNorm,
    AddedStreamNorm: RowAddedStreamNorm,
    LightningAttention: RowLightningAttention,
    SoftmaxAttention: RowSoftmaxAttention,
    MoE: RowMoE,
}


def make_by_row(network: MiniMax) -> None:
    """From now on it is for sampling alone, in bf16 on Hopper GPUs."""
    swap_classes(network, _BY_ROW)
