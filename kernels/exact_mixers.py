"""Lightning and softmax attention of the exact mode (`kernels.exact`): what a token gets depends on no batch.

On GPUs in tiles from a sequence's start, on CPUs token by token, in learner and sampler alike.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from kernels.attention import varlen_attention
from kernels.exact import pointwise, straight
from kernels.lightning_qkv import silu_lightning


def lightning(
    qkv_TJ: Tensor, slopes_H: Tensor, cu_seqlens: Tensor, initial: Tensor | None = None, final: bool = False
) -> tuple[Tensor, Tensor | None]:
    """As `kernels.lightning_qkv.silu_lightning`; initial and final states only without gradient.

    On GPUs these are the states after a sequence's last whole tile of 64 tokens, and sequences go on at such borders.
    """

    def run(qkv: Tensor) -> tuple[Tensor, Tensor | None]:
        if not qkv.is_cuda:
            return _token_by_token(*_heads(qkv, len(slopes_H)), slopes_H, cu_seqlens, initial)
        from kernels.exact_lightning_triton import lightning_triton

        return lightning_triton(qkv, slopes_H, cu_seqlens, initial, final)

    if not torch.is_grad_enabled():
        return run(qkv_TJ)

    def ordinary(qkv: Tensor) -> Tensor:
        return silu_lightning(qkv, slopes_H, cu_seqlens)[0]

    return straight(lambda qkv: run(qkv)[0], ordinary, qkv_TJ), None


def _heads(qkv_TJ: Tensor, heads: int) -> tuple[Tensor, Tensor, Tensor]:
    q, k, v = pointwise(F.silu, qkv_TJ).view(len(qkv_TJ), heads, 3, -1).unbind(2)
    return q, k, v


def _token_by_token(
    q_THD: Tensor, k_THD: Tensor, v_THD: Tensor, slopes_H: Tensor, cu_seqlens: Tensor, initial: Tensor | None
) -> tuple[Tensor, Tensor]:
    """All sequences side by side, the longest first."""
    lengths_S, order_S = (cu_seqlens[1:] - cu_seqlens[:-1]).sort(descending=True)
    starts_S = cu_seqlens[:-1][order_S]
    heads, dim = q_THD.shape[1:]
    state = q_THD.new_zeros(len(order_S), heads, dim, dim) if initial is None else initial[order_S]
    o_THD = torch.empty_like(q_THD, memory_format=torch.contiguous_format)
    for t in range(int(lengths_S.max()) if len(lengths_S) else 0):
        count = int((lengths_S > t).sum())
        rows = starts_S[:count] + t
        o_THD[rows] = _one_step(q_THD[rows], k_THD[rows], v_THD[rows], slopes_H, state[:count])
    return o_THD, state[order_S.argsort()]


def _one_step(q_BHD: Tensor, k_BHD: Tensor, v_BHD: Tensor, slopes_H: Tensor, state_BHDD: Tensor) -> Tensor:
    """In products and sums that round by themselves; the state is updated in place."""
    state_BHDD.mul_(torch.exp(-slopes_H.to(state_BHDD.dtype))[:, None, None])
    state_BHDD.add_(k_BHD[..., None] * v_BHD[..., None, :])
    return (q_BHD[..., None] * state_BHDD).sum(-2)


def lightning_decode(
    qkv_BJ: Tensor,
    slopes_H: Tensor,
    state_BHDD: Tensor,
    tail_BCH2D: Tensor | None = None,
    position_B: Tensor | None = None,
) -> Tensor:
    """One token a sequence, [B, H, D]; the state is updated in place.

    On GPUs it is the state before the token's tile, whose keys and values, before silu, lie in the tail.
    """
    if tail_BCH2D is None or position_B is None:
        return _one_step(*_heads(qkv_BJ, len(slopes_H)), slopes_H, state_BHDD)
    from kernels.exact_lightning_triton import lightning_decode_triton

    return lightning_decode_triton(qkv_BJ, slopes_H, position_B, state_BHDD, tail_BCH2D)


def attention(q_THD: Tensor, k_UKD: Tensor, v_UKD: Tensor, cu_seqlens: Tensor, cu_seqlens_k: Tensor) -> Tensor:
    """As `kernels.attention.varlen_attention`."""

    def run(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        if q.is_cuda:
            from kernels.exact_attention_triton import attention_triton

            return attention_triton(q, k, v, cu_seqlens, cu_seqlens_k)
        out, borders = [], zip(cu_seqlens.tolist()[1:], cu_seqlens_k.tolist(), cu_seqlens_k.tolist()[1:], strict=False)
        starts = cu_seqlens.tolist()
        for start, (end, start_k, end_k) in zip(starts, borders, strict=False):
            keys, values = (x[start_k:end_k].transpose(0, 1) for x in (k, v))
            before = end_k - start_k - (end - start)
            for t in range(end - start):
                seen = before + t + 1
                out.append(_one_token(q[start + t], keys[:, :seen], values[:, :seen]))
        return torch.stack(out) if out else torch.empty_like(q)

    def ordinary(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return varlen_attention(q, k, v, cu_seqlens, cu_seqlens_k)

    return straight(run, ordinary, q_THD, k_UKD, v_UKD)


def paged_attention(
    q_BHD: Tensor, keys_NKPD: Tensor, values_NKPD: Tensor, table_BM: Tensor, lengths_B: Tensor
) -> Tensor:
    """As `kernels.paged.paged_attention`; on GPUs for pages of 64 tokens."""
    if q_BHD.is_cuda:
        from kernels.exact_attention_triton import paged_triton

        return paged_triton(q_BHD, keys_NKPD, values_NKPD, table_BM, lengths_B)
    size, out = keys_NKPD.shape[2], []
    for q_HD, table_M, length in zip(q_BHD, table_BM, lengths_B.tolist(), strict=True):
        pages = table_M[: -(-length // size)]
        keys, values = (x[pages].transpose(0, 1).flatten(1, 2)[:, :length] for x in (keys_NKPD, values_NKPD))
        out.append(_one_token(q_HD, keys, values))
    return torch.stack(out)


def _one_token(q_HD: Tensor, k_KLD: Tensor, v_KLD: Tensor) -> Tensor:
    """Always the same calls on the same shapes and layouts for a token."""
    heads, dim = q_HD.shape
    k_K1LD, v_K1LD = k_KLD.contiguous()[:, None], v_KLD.contiguous()[:, None]
    scores_KGL = (q_HD.view(len(k_KLD), -1, 1, dim) * k_K1LD).sum(-1) * dim**-0.5
    return (scores_KGL.softmax(-1)[..., None] * v_K1LD).sum(-2).view(heads, dim)
