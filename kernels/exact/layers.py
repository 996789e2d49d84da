"""A forward whose rows depend on themselves alone, so that learner and sampler agree to the bit; ordinary gradients.

A matrix product rounds otherwise at other row counts, and decoding attends otherwise than packed rows do. Here every
operation gives a row the same bits whatever stands beside it and however it came: on GPUs by Triton kernels with one
order of sums, on CPUs by the native kernels, which have that anyway, or by torch in blocks of one shape, and by mixers
that go token by token. What torch does by row by itself (elementwise on GPUs, softmax, top-k) is left to it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_cispo.kernels.experts.moe import by_row, top_experts
from lightning_cispo.kernels.experts.moe import moe_experts as ordinary_experts
from lightning_cispo.kernels.function import Function
from lightning_cispo.kernels.head.logprobs import SlicedLogprobs, in_triton, row_slices
from lightning_cispo.kernels.linear import linear as ordinary_linear
from lightning_cispo.kernels.native.library import serves
from lightning_cispo.kernels.native.sample import score_native
from lightning_cispo.kernels.norm.rms_norm import rms_norm as ordinary_norm
from lightning_cispo.kernels.norm.rms_norm import scaled_sum

_ROWS = 16  # of a block on a CPU: fewer take other paths through MKL
_NUMBERS = 1 << 14  # of a block of elementwise work on a CPU: one thread, and whole vectors


class _Straight(Function):
    """What `exact` computes, with the gradient of `ordinary`, which is computed again for it."""

    @staticmethod
    def forward(ctx, exact, ordinary, *tensors):
        ctx.ordinary = ordinary
        ctx.save_for_backward(*tensors)
        return exact(*tensors)

    @staticmethod
    def backward(ctx, *grads):
        wanted = ctx.needs_input_grad[2:]
        leaves = [x.detach().requires_grad_(needed) for x, needed in zip(ctx.saved_tensors, wanted, strict=True)]
        with torch.enable_grad():
            outputs = ctx.ordinary(*leaves)
        outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        found = iter(torch.autograd.grad(outputs, [leaf for leaf in leaves if leaf.requires_grad], grads))
        return None, None, *(next(found) if needed else None for needed in wanted)


def straight(exact: Callable[..., Any], ordinary: Callable[..., Any], *tensors: Tensor) -> Any:
    """`exact(*tensors)`, differentiable as `ordinary(*tensors)`: one tensor or a tuple of them."""
    return _Straight.apply(exact, ordinary, *tensors)


def pointwise(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """An elementwise function; on CPUs the last few numbers of a call, or of a thread, go another way than the rest."""
    if x.is_cuda:
        return function(x)
    padded = F.pad(x.flatten(), (0, -x.numel() % 64))
    return torch.cat([function(block) for block in padded.split(_NUMBERS)])[: x.numel()].view(x.shape)


class _Linear(Function):
    @staticmethod
    def forward(ctx, x, weight, ends, dtype, source):
        ctx.save_for_backward(x, weight, ends, source)
        if x.is_cuda:
            from lightning_cispo.kernels.exact.linear_triton import dense_triton, linear_triton

            return dense_triton(x, weight, dtype) if ends is None else linear_triton(x, weight, ends, dtype, source)
        if ends is None:
            return _in_blocks(x.to(dtype), weight)
        parts = (x if source is None else x.index_select(0, source)).split(_counts(ends))
        return torch.cat([_in_blocks(part, own) for part, own in zip(parts, weight, strict=True)])

    @staticmethod
    def backward(ctx, dy):
        x, weight, ends, source = ctx.saved_tensors
        if ends is None:
            return (dy @ weight.to(dy.dtype)).to(x.dtype), (dy.T @ x.to(dy.dtype)).to(weight.dtype), None, None, None
        rows = x if source is None else x.index_select(0, source)
        if x.is_cuda and x.dtype == torch.bfloat16:
            dx, dweight = F.grouped_mm(dy, weight, offs=ends), F.grouped_mm(dy.T, rows, offs=ends)
        else:
            counts = _counts(ends)
            parts = list(zip(dy.split(counts), rows.split(counts), weight, strict=True))
            dx = torch.cat([grad @ own for grad, _, own in parts])
            dweight = torch.stack([grad.T @ part for grad, part, _ in parts])
        if source is not None:
            dx = torch.zeros_like(x).index_add(0, source, dx)
        return dx, dweight, None, None, None


def _counts(ends_E: Tensor) -> list[int]:
    ends = ends_E.tolist()
    return [end - start for start, end in zip([0, *ends], ends, strict=False)]


def _in_blocks(x_TK: Tensor, weight_NK: Tensor) -> Tensor:
    missing = -x_TK.shape[1] % 16  # rows that begin anywhere are summed in more than one order
    padded = F.pad(x_TK, (0, missing, 0, -len(x_TK) % _ROWS))
    weight = F.pad(weight_NK, (0, missing)) if missing else weight_NK
    return torch.cat([F.linear(block, weight) for block in padded.split(_ROWS)])[: len(x_TK)]


def linear(x_TK: Tensor, weight_NK: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """x W^T in x's dtype, to which weights are rounded; or, with float32 weights as they are, in `dtype`."""
    if serves(x_TK, weight_NK):
        return ordinary_linear(x_TK, weight_NK)
    if x_TK.is_cuda and x_TK.element_size() == 2 and weight_NK.dtype == torch.float32 and dtype is None:
        from lightning_cispo.kernels.exact.gradients import ExactMasterLinear

        return ExactMasterLinear.apply(x_TK, weight_NK)
    weight_NK = weight_NK if dtype else weight_NK.to(x_TK.dtype)
    return _Linear.apply(x_TK, weight_NK, None, dtype or x_TK.dtype, None)


def router_logits(x_TX: Tensor, weight_EX: Tensor) -> Tensor:
    """As `kernels.experts.router.router_logits`."""
    if x_TX.is_cuda and x_TX.dtype != torch.float64:
        from lightning_cispo.kernels.exact.gradients import ExactRouterLogits

        return ExactRouterLogits.apply(x_TX, weight_EX)
    return linear(x_TX, weight_EX, torch.promote_types(x_TX.dtype, torch.float32))


def route(logits_TE: Tensor, expert_TK: Tensor | None, top_k: int) -> tuple[Tensor, Tensor]:
    """Shares [T, K] of the likeliest experts, or of those given, which add up to 1, and which they are [T, K]."""
    if serves(logits_TE):
        if expert_TK is None:
            return top_experts(logits_TE, top_k)
        # Among the given ones alone: in the same order, and with the same shares, if they are the likeliest.
        weight_TK, order_TK = top_experts(logits_TE.gather(-1, expert_TK), top_k)
        return weight_TK, expert_TK.gather(-1, order_TK)

    if logits_TE.is_cuda:
        from lightning_cispo.kernels.exact.gradients import ExactChoice

        return ExactChoice.apply(logits_TE, top_k, expert_TK)
    found_TK = logits_TE.topk(top_k, dim=-1).indices if expert_TK is None else expert_TK
    chosen = logits_TE.softmax(-1).gather(-1, found_TK).unbind(-1)
    return torch.stack(chosen, dim=-1) / _one_after_another(chosen)[:, None], found_TK


def moe_experts(x_TX: Tensor, expert_TK: Tensor, weight_TK: Tensor, gate_up_EJX: Tensor, down_EXI: Tensor) -> Tensor:
    """As `kernels.experts.moe.moe_experts`; a token's experts are summed in the order in which they were chosen."""
    if serves(x_TX, weight_TK, gate_up_EJX, down_EXI) or by_row(x_TX, down_EXI):
        return ordinary_experts(x_TX, expert_TK, weight_TK, gate_up_EJX, down_EXI)
    source_N, place_N, ends_E = _by_expert(expert_TK, len(down_EXI))
    joined = _Linear.apply(x_TX, gate_up_EJX.to(x_TX.dtype), ends_E, x_TX.dtype, source_N)
    out = _Linear.apply(_swiglu(joined), down_EXI.to(x_TX.dtype), ends_E, x_TX.dtype, None)

    def ordinary(out: Tensor, weight: Tensor) -> Tensor:
        parts_TKX = out.index_select(0, place_N).view(*expert_TK.shape, -1) * weight[..., None]
        return _one_after_another(parts_TKX.unbind(1)).to(out.dtype)

    if not x_TX.is_cuda:
        return ordinary(out, weight_TK)
    from lightning_cispo.kernels.exact.rows_triton import weighted_sum_triton

    return straight(lambda out, weight: weighted_sum_triton(out, place_N, weight), ordinary, out, weight_TK)


def _by_expert(expert_TK: Tensor, experts: int) -> tuple[Tensor, Tensor, Tensor]:
    """The token of each row sorted by expert, the row of each choice, and where every expert's rows end."""
    device = expert_TK.device
    if expert_TK.is_cuda:
        from lightning_cispo.kernels.exact.rows_triton import MOST_SORTED, sort_triton

        if expert_TK.numel() <= MOST_SORTED:
            return sort_triton(expert_TK, experts)
    sorted_N, order_N = expert_TK.flatten().sort(stable=True)
    ends_E = torch.searchsorted(sorted_N, torch.arange(experts, device=device), right=True, out_int32=True)
    place_N = torch.empty_like(order_N).scatter_(0, order_N, torch.arange(len(order_N), device=device))
    return order_N // expert_TK.shape[1], place_N, ends_E


def _swiglu(joined_NJ: Tensor) -> Tensor:
    def ordinary(joined: Tensor) -> Tensor:
        gate, up = joined.chunk(2, dim=-1)
        return pointwise(F.silu, gate) * up

    if not joined_NJ.is_cuda:
        return ordinary(joined_NJ)
    from lightning_cispo.kernels.exact.rows_triton import swiglu_triton

    return straight(swiglu_triton, ordinary, joined_NJ)


def _one_after_another(parts: tuple[Tensor, ...]) -> Tensor:
    """Their sum; a reduction's order may follow the number of rows."""
    total, *rest = parts
    for part in rest:
        total = total + part
    return total


def rms_norm(x_TX: Tensor, weight_X: Tensor, eps: float, gate_TX: Tensor | None = None) -> Tensor:
    """As `kernels.norm.rms_norm.rms_norm` for rows [T, X]."""
    if not x_TX.is_cuda:
        return _norm_on_cpu(x_TX, weight_X, eps, gate_TX)
    from lightning_cispo.kernels.norm.launch import GatedRMSNorm, RMSNorm

    if gate_TX is not None:
        return GatedRMSNorm.apply(x_TX, gate_TX, weight_X, eps, True)
    return RMSNorm.apply(x_TX, weight_X, eps, x_TX.dtype, True)


def stream_norm(x_TX: Tensor, weight_X: Tensor, eps: float, postnorm: bool) -> tuple[Tensor, Tensor]:
    """As `kernels.norm.rms_norm.stream_norm`, in x's dtype."""
    if not x_TX.is_cuda:
        normed_TX = _norm_on_cpu(x_TX, weight_X, eps)
        return normed_TX if postnorm else x_TX, normed_TX
    from lightning_cispo.kernels.norm.launch import StreamNorm

    return StreamNorm.apply(x_TX, weight_X, eps, x_TX.dtype, postnorm, True)


def added_stream_norm(
    residual_TX: Tensor, update_TX: Tensor, scales: tuple[float, float], weight_X: Tensor, eps: float, postnorm: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """As `kernels.norm.rms_norm.added_stream_norm`, in one dtype."""
    if not update_TX.is_cuda:
        x_TX = scaled_sum(residual_TX, update_TX, scales)
        normed_TX = _norm_on_cpu(x_TX, weight_X, eps)
        return normed_TX if postnorm else x_TX, normed_TX, normed_TX
    from lightning_cispo.kernels.norm.launch import AddedStreamNorm

    return AddedStreamNorm.apply(residual_TX, update_TX, scales, weight_X, eps, postnorm, True)


def _norm_on_cpu(x_TX: Tensor, weight_X: Tensor, eps: float, gate_TX: Tensor | None = None) -> Tensor:
    """By row, natively and in torch; but for the last numbers of a sigmoid in torch."""
    if gate_TX is None or serves(x_TX, weight_X, gate_TX):
        return ordinary_norm(x_TX, weight_X, eps, gate_TX)
    return pointwise(torch.sigmoid, gate_TX) * ordinary_norm(x_TX, weight_X, eps)


def tempered_logprobs(logits_TV: Tensor, temperature_T: Tensor) -> Tensor:
    """Log-probabilities [T, V] at a temperature for each row: a tensor, as a number would be inverted first."""
    return (logits_TV / temperature_T[:, None]).log_softmax(-1)


def exact_logprobs(
    hidden_TX: Tensor, weight_VX: Tensor, targets_T: Tensor, temperature: float
) -> tuple[Tensor, Tensor]:
    """As `kernels.head.logprobs.head_logprobs`, the log-probabilities bit by bit those of a sampler."""
    if in_triton(hidden_TX, weight_VX):
        from lightning_cispo.kernels.exact.gradients import ExactHead

        return ExactHead.apply(hidden_TX.contiguous(), weight_VX.contiguous(), targets_T.contiguous(), temperature)

    return _ScoredLogprobs.apply(hidden_TX, weight_VX, targets_T, temperature)


class _ScoredLogprobs(SlicedLogprobs):
    @staticmethod
    def forward(ctx, hidden, weight, targets, temperature):
        dtype = torch.promote_types(hidden.dtype, torch.float32)
        logprobs, entropy, lse = hidden.new_empty(3, len(targets), dtype=dtype)
        for rows in row_slices(hidden, weight):
            logits, own = linear(hidden[rows], weight, dtype), targets[rows]
            temperatures = torch.full_like(own, temperature, dtype=dtype)
            logprobs[rows], entropy[rows] = _score(logits, temperatures, own)
            lse[rows] = logits.gather(1, own[:, None]).squeeze(1) / temperature - logprobs[rows]
        ctx.save_for_backward(hidden, weight, targets, lse, entropy)
        ctx.temperature = temperature
        return logprobs, entropy


def _score(logits_TV: Tensor, temperature_T: Tensor, targets_T: Tensor) -> tuple[Tensor, Tensor]:
    if logits_TV.is_cuda:
        from lightning_cispo.kernels.exact.score_triton import score_triton

        return score_triton(logits_TV, temperature_T, targets_T)[:2]
    logp = tempered_logprobs(logits_TV, temperature_T)
    entropy_T = -(logp.exp() * logp).sum(-1)
    if serves(logits_TV):
        return score_native(logits_TV, temperature_T, targets_T), entropy_T
    return logp.gather(1, targets_T[:, None]).squeeze(1), entropy_T
