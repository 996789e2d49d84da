"""The C kernels that also have a backward, as autograd functions: float32, on the CPU.

Each does what the torch expression does that stands where it is dispatched.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from lightning_cispo.kernels.function import Function
from lightning_cispo.kernels.native.library import call


def matmul(a_MK: Tensor, b_KN: Tensor, into: Tensor | None = None, add: bool = False) -> Tensor:
    """a b [M, N], written to a contiguous tensor or added to it if one is given. The factors may have any strides."""
    (m, k), n = a_MK.shape, b_KN.shape[1]
    c_MN = a_MK.new_empty(m, n) if into is None else into
    call("matmul", m, n, k, a_MK, *a_MK.stride(), b_KN, *b_KN.stride(), c_MN, int(add))
    return c_MN


class Linear(Function):
    """x [T, X] W^T for W [Y, X]."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return matmul(x, weight.T)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, Tensor]:
        x, weight = ctx.saved_tensors
        return matmul(dy, weight), matmul(dy.T, x)


class Norm(Function):
    """weight * x / rms(x), times sigmoid(gate) if there is one; all rows [T, X]."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, gate: Tensor | None, eps: float) -> Tensor:
        x = x.contiguous()
        gate = None if gate is None else gate.contiguous()
        y, scale_T = torch.empty_like(x), x.new_empty(len(x))
        call("norm_forward", *x.shape, x, weight, gate, eps, y, scale_T)
        ctx.save_for_backward(x, weight, gate, scale_T)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, Tensor, Tensor | None, None]:
        x, weight, gate, scale_T = ctx.saved_tensors
        dx, dgate = torch.empty_like(x), None if gate is None else torch.empty_like(gate)
        parts = x.new_empty(torch.get_num_threads(), x.shape[1])
        call("norm_backward", *x.shape, x, weight, gate, scale_T, dy.contiguous(), dx, dgate, parts)
        return dx, parts.sum(0), dgate, None


class StreamNorm(Function):
    """The norm of x = alpha * residual + beta * update, or of the residual where there is no update; all rows [T, X].

    Returns what the residual goes on from, x or, post-norm, its norm; then the norm once for each of `readers`, so that
    the gradients which reach it are added up here.
    """

    @staticmethod
    def forward(
        ctx: Any,
        residual: Tensor,
        update: Tensor | None,
        scales: tuple[float, float],
        weight: Tensor,
        eps: float,
        postnorm: bool,
        readers: int,
    ) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)
        residual = residual.contiguous()
        update = None if update is None else update.contiguous()
        x = residual if update is None else torch.empty_like(residual)
        y, scale_T = torch.empty_like(x), x.new_empty(len(x))
        ctx.scales, ctx.postnorm, ctx.added = tuple(map(float, scales)), postnorm, update is not None
        call("stream_norm_forward", *x.shape, residual, update, *ctx.scales, weight, eps, x, y, scale_T)
        ctx.save_for_backward(x, weight, scale_T)
        kept = y if postnorm else x
        return kept.view_as(kept), *(y.view_as(y) for _ in range(readers))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dkept: Tensor | None, *dys: Tensor | None) -> tuple[Tensor | None, ...]:
        x, weight, scale_T = ctx.saved_tensors
        by_x, given = (None, (dkept, *dys)) if ctx.postnorm else (dkept, dys)
        found: list[Tensor | None] = [dy.contiguous() for dy in given if dy is not None] or [torch.zeros_like(x)]
        found += [None] * (3 - len(found))
        dresidual, dupdate = torch.empty_like(x), torch.empty_like(x) if ctx.added else None
        parts = x.new_empty(torch.get_num_threads(), x.shape[1])
        by_x = None if by_x is None else by_x.contiguous()
        call("stream_norm_backward", *x.shape, x, weight, scale_T, *found, by_x, *ctx.scales, dresidual, dupdate, parts)
        return dresidual, dupdate, None, parts.sum(0), None, None, None


class Lightning(Function):
    """Lightning attention of silu(qkv), for rows [T, H * 3 D] that hold q, k and v of one head after the other.

    Only o [T, H, D] has a gradient, and only where no state is given.
    """

    @staticmethod
    def forward(
        ctx: Any, qkv: Tensor, slopes_H: Tensor, cu_seqlens: Tensor, initial: Tensor | None, wanted: bool
    ) -> tuple[Tensor, Tensor | None]:
        qkv, slopes_H, cu_seqlens = qkv.contiguous(), slopes_H.float(), cu_seqlens.long().contiguous()
        heads, sequences = len(slopes_H), len(cu_seqlens) - 1
        dim = qkv.shape[1] // (3 * heads)
        o_THD = qkv.new_empty(len(qkv), heads, dim)
        final = qkv.new_empty(sequences, heads, dim, dim) if wanted else None
        initial = None if initial is None else initial.contiguous()
        call("lightning_forward", sequences, cu_seqlens, heads, dim, qkv, slopes_H, initial, o_THD, final)
        ctx.save_for_backward(qkv, slopes_H, cu_seqlens)
        return o_THD, final

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, do_THD: Tensor, _: Any) -> tuple[Tensor, None, None, None, None]:
        qkv, slopes_H, cu_seqlens = ctx.saved_tensors
        do_THD, dqkv = do_THD.contiguous(), torch.empty_like(qkv)
        _, heads, dim = do_THD.shape
        call("lightning_backward", len(cu_seqlens) - 1, cu_seqlens, heads, dim, qkv, slopes_H, do_THD, dqkv)
        return dqkv, None, None, None, None


class Route(Function):
    """Shares [T, K] of the `top_k` likeliest experts in the softmax over these alone, and which they are."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, top_k: int) -> tuple[Tensor, Tensor]:
        logits = logits.contiguous()
        shares_TK = logits.new_empty(len(logits), top_k)
        chosen_TK = torch.empty(len(logits), top_k, dtype=torch.int64)
        call("route_forward", *logits.shape, top_k, logits, chosen_TK, shares_TK)
        ctx.save_for_backward(chosen_TK, shares_TK)
        ctx.mark_non_differentiable(chosen_TK)
        ctx.experts = logits.shape[1]
        return shares_TK, chosen_TK

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dshares: Tensor, _: Any) -> tuple[Tensor, None]:
        chosen_TK, shares_TK = ctx.saved_tensors
        tokens, top_k = chosen_TK.shape
        dlogits = dshares.new_empty(tokens, ctx.experts)
        call("route_backward", tokens, ctx.experts, top_k, chosen_TK, shares_TK, dshares.contiguous(), dlogits)
        return dlogits, None


class Experts(Function):
    """The weighted sum over each token's experts; weights [E, 2 I, X] and [E, X, I]. With `keep` for a backward."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, chosen: Tensor, shares: Tensor, gate_up: Tensor, down: Tensor, keep: bool
    ) -> Tensor:
        x, chosen, shares = x.contiguous(), chosen.contiguous(), shares.contiguous()
        gates, y = x.new_empty(chosen.numel(), gate_up.shape[1]) if keep else None, torch.empty_like(x)
        order, ends_E = (torch.empty(n, dtype=torch.int64) for n in (chosen.numel(), len(down)))
        call("experts_forward", _sizes(chosen, down), x, chosen, shares, gate_up, down, y, order, ends_E, gates)
        if keep:
            ctx.save_for_backward(x, shares, gate_up, down, order, ends_E, gates)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, None, Tensor, Tensor, Tensor, None]:
        x, shares, gate_up, down, order, ends_E, gates = ctx.saved_tensors
        made = dx, dshares, dgate_up, ddown = [torch.empty_like(part) for part in (x, shares, gate_up, down)]
        kept = dy.contiguous(), order, ends_E, gates
        call("experts_backward", _sizes(shares, down), x, shares, gate_up, down, *kept, *made)
        return dx, None, dshares, dgate_up, ddown, None


def _sizes(chosen_TK: Tensor, down: Tensor) -> Tensor:
    experts, hidden, inner = down.shape
    tokens, top_k = chosen_TK.shape
    return torch.tensor([tokens, hidden, experts, top_k, inner])


def softmax_statistics(logits_TV: Tensor, targets_T: Tensor, temperature: float) -> tuple[Tensor, Tensor, Tensor]:
    """Of softmax(logits / temperature): log-sum-exp, the targets' log-probabilities, entropies; all [T]."""
    lse, logprobs, entropy = logits_TV.new_empty(3, len(logits_TV))
    call("softmax_statistics", *logits_TV.shape, logits_TV, targets_T, float(temperature), lse, logprobs, entropy)
    return lse, logprobs, entropy


def softmax_gradient(
    logits_TV: Tensor,
    targets_T: Tensor,
    temperature: float,
    lse_T: Tensor,
    entropy_T: Tensor,
    grad_logprobs_T: Tensor,
    grad_entropy_T: Tensor,
) -> None:
    """Logits become the gradient by them, given that by the targets' log-probabilities and by the entropies."""
    given = (x.contiguous() for x in (lse_T, entropy_T, grad_logprobs_T, grad_entropy_T))
    call("softmax_gradient", *logits_TV.shape, logits_TV, targets_T, float(temperature), *given)
