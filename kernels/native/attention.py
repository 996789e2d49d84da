"""Softmax attention over packed rows in C, as an autograd function: float32, on the CPU."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from lightning_cispo.kernels.function import Function
from lightning_cispo.kernels.native.library import call


class Attention(Function):
    """As `kernels.attention.varlen_attention`: q [T, H, D], k and v [U, Kv, D], borders of queries and keys [S + 1].

    A row's bits depend on no other sequence, on no later key, on how a sequence was cut and on no number of threads.
    """

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, cu_seqlens: Tensor, cu_seqlens_k: Tensor) -> Tensor:
        q, k, v = q.contiguous(), k.contiguous(), v.contiguous()
        borders, borders_k = cu_seqlens.long().contiguous(), cu_seqlens_k.long().contiguous()
        o, lse_TH = torch.empty_like(q), q.new_empty(q.shape[:2])
        call("attention_forward", len(borders) - 1, borders, borders_k, *_sizes(q, k), q, k, v, o, lse_TH)
        ctx.save_for_backward(q, k, v, borders, borders_k, o, lse_TH)
        return o

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, do: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        q, k, v, borders, borders_k, o, lse_TH = ctx.saved_tensors
        (tokens, kv_heads, dim), heads = k.shape, q.shape[1]
        dq, delta_TH = torch.empty_like(q), torch.empty_like(lse_TH)
        dk, dv = q.new_empty(2, tokens, heads, dim)
        given, found = (q, k, v, o, lse_TH, do.contiguous()), (dq, dk, dv, delta_TH)
        call("attention_backward", len(borders) - 1, borders, borders_k, *_sizes(q, k), *given, *found)
        if heads > kv_heads:
            dk, dv = (x.view(tokens, kv_heads, -1, dim).sum(2) for x in (dk, dv))
        return dq, dk, dv, None, None


def _sizes(q: Tensor, k: Tensor) -> tuple[int, int, int]:
    return q.shape[1], k.shape[1], q.shape[2]
