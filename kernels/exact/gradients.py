"""The exact mode's forward on GPUs with the ordinary gradients' kernels: no ordinary forward is computed for them."""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_cispo.kernels.exact.lightning_triton import lightning_triton
from lightning_cispo.kernels.exact.linear_triton import dense_triton
from lightning_cispo.kernels.exact.rows_triton import route_triton
from lightning_cispo.kernels.exact.score_triton import score_triton
from lightning_cispo.kernels.experts.choice_triton import ChooseExperts
from lightning_cispo.kernels.experts.router_triton import RouterLogits
from lightning_cispo.kernels.function import Function
from lightning_cispo.kernels.head.launch import HeadLogprobs
from lightning_cispo.kernels.head.operands import power_of_two
from lightning_cispo.kernels.lightning.launch import gradients, segments_for
from lightning_cispo.kernels.linear import MasterLinear
from lightning_cispo.kernels.silu_triton import silu_qkv_gradient, silu_qkv_triton

_LOGITS_AT_ONCE = 1 << 26  # 256 MiB: the weight is read again for each part of the rows


class ExactHead(HeadLogprobs):
    """`kernels.head.logprobs.head_logprobs` with the sampler's sums."""

    @staticmethod
    def forward(ctx, hidden, weight, targets, temperature):
        ctx.set_materialize_grads(False)
        rows = max(1, _LOGITS_AT_ONCE // len(weight))
        parts = []
        for part, own in zip(hidden.split(rows), targets.split(rows), strict=True):
            temperatures = torch.full_like(own, temperature, dtype=torch.float32)
            parts.append(score_triton(dense_triton(part, weight, torch.float32), temperatures, own))
        logprobs, entropy, lse = (torch.cat(found) for found in zip(*parts, strict=True))
        scales = (None, None) if hidden.dtype == weight.dtype else (power_of_two(hidden), power_of_two(weight))
        ctx.save_for_backward(hidden, weight, targets, logprobs, lse, entropy, *scales)
        ctx.temperature = temperature
        return logprobs, entropy


class ExactMasterLinear(MasterLinear):
    """`kernels.linear.linear` of 16-bit rows and a float32 weight."""

    @staticmethod
    def forward(ctx, x_TX: Tensor, weight_YX: Tensor):
        narrow_YX = weight_YX.to(x_TX.dtype)
        ctx.save_for_backward(x_TX, narrow_YX)
        return dense_triton(x_TX, narrow_YX, x_TX.dtype)


class ExactRouterLogits(RouterLogits):
    """`kernels.experts.router.router_logits` with the sampler's sums."""

    @staticmethod
    def forward(ctx, x_TX: Tensor, weight_EX: Tensor):
        x_TX, weight_EX = x_TX.contiguous(), weight_EX.contiguous()
        ctx.save_for_backward(x_TX, weight_EX)
        return dense_triton(x_TX, weight_EX, torch.float32)


class ExactChoice(ChooseExperts):
    """The likeliest experts or those given, with the sampler's shares."""

    @staticmethod
    def forward(ctx, logits_TE: Tensor, top_k: int, given_TK: Tensor | None):  # type: ignore[override]
        weight_TK, expert_TK = route_triton(logits_TE.contiguous(), top_k, given_TK)
        ctx.mark_non_differentiable(expert_TK)
        ctx.save_for_backward(weight_TK, expert_TK)
        ctx.experts = logits_TE.shape[1]
        return weight_TK, expert_TK

    @staticmethod
    def backward(ctx, dweight_TK: Tensor, _):
        return *ChooseExperts.backward(ctx, dweight_TK, _), None


class ExactLightning(Function):
    """Lightning attention of silu(qkv), without states before or after: o [T, H, D]."""

    @staticmethod
    def forward(ctx, qkv_TJ: Tensor, slopes_H: Tensor, cu_seqlens: Tensor):
        qkv_TJ = qkv_TJ.contiguous()
        ctx.save_for_backward(qkv_TJ, slopes_H, cu_seqlens)
        return lightning_triton(qkv_TJ, slopes_H, cu_seqlens, None, False)[0]

    @staticmethod
    def backward(ctx, do_THD: Tensor):
        qkv_TJ, slopes_H, cu_seqlens = ctx.saved_tensors
        q, k, v = silu_qkv_triton(qkv_TJ, len(slopes_H))
        segments = segments_for(q, cu_seqlens)
        dq, dk, dv, _ = gradients(do_THD, q, k, v, slopes_H, cu_seqlens, segments)
        return silu_qkv_gradient(qkv_TJ, dq, dk, dv), None, None
