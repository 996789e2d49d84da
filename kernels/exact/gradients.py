"""Ordinary gradients of what the exact mode computes on GPUs, where these need no ordinary forward pass."""

from __future__ import annotations

import torch
from torch import Tensor

from kernels.exact.linear_triton import dense_triton
from kernels.exact.score_triton import score_triton
from kernels.function import Function
from kernels.head.launch import HeadLogprobs
from kernels.head.operands import power_of_two
from kernels.lightning.launch import LightningAttention

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


class LightningGradient(Function):
    """Lightning attention whose output nobody reads: the gradient asks for its inputs alone."""

    @staticmethod
    def forward(ctx, q_THD: Tensor, k_THD: Tensor, v_THD: Tensor, slopes_H: Tensor, cu_seqlens: Tensor):
        LightningAttention.keep(ctx, q_THD, k_THD, v_THD, slopes_H, cu_seqlens, None)
        return torch.empty_like(q_THD, memory_format=torch.contiguous_format)

    @staticmethod
    def backward(ctx, do_THD):
        return LightningAttention.backward(ctx, do_THD, None)[:5]
