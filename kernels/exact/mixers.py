"""Lightning and softmax attention of the exact mode (`kernels.exact.layers`): what a token gets depends on no batch.

On GPUs in tiles from a sequence's start, on CPUs token by token, in learner and sampler alike.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_cispo.kernels.attention import varlen_attention
from lightning_cispo.kernels.exact.layers import pointwise, straight
from lightning_cispo.kernels.lightning.qkv import silu_lightning
from lightning_cispo.kernels.native.library import call, serves
from lightning_cispo.kernels.native.train import Lightning as NativeLightning


def lightning(
    qkv_TJ: Tensor, slopes_H: Tensor, cu_seqlens: Tensor, initial: Tensor | None = None, final: bool = False
) -> tuple[Tensor, Tensor | None]:
    """As `kernels.lightning.qkv.silu_lightning`; initial and final states only without gradient.

    On GPUs these are the states after a sequence's last whole tile of 64 tokens, and sequences go on at such borders.
    """

    def run(qkv: Tensor) -> tuple[Tensor, Tensor | None]:
        if qkv.is_cuda:
            from lightning_cispo.kernels.exact.lightning_triton import lightning_triton

            return lightning_triton(qkv, slopes_H, cu_seqlens, initial, final)
        heads, sequences = len(slopes_H), len(cu_seqlens) - 1
        dim = qkv.shape[1] // (3 * heads)
        state = qkv.new_zeros(sequences, heads, dim, dim) if initial is None else initial.clone()
        return _token_by_token(qkv, slopes_H, cu_seqlens, state), state

    if not torch.is_grad_enabled():
        return run(qkv_TJ)
    begins = initial is None and not final
    if begins and qkv_TJ.is_cuda and qkv_TJ.dtype != torch.float64 and qkv_TJ.shape[1] <= 3 * 128 * len(slopes_H):
        from lightning_cispo.kernels.exact.gradients import ExactLightning

        return ExactLightning.apply(qkv_TJ, slopes_H, cu_seqlens), None
    if begins and serves(qkv_TJ):
        return _NativeLightning.apply(qkv_TJ, slopes_H, cu_seqlens), None
    return straight(lambda qkv: run(qkv)[0], lambda qkv: silu_lightning(qkv, slopes_H, cu_seqlens)[0], qkv_TJ), None


class _NativeLightning(NativeLightning):
    """Token by token, with the gradient of `silu_lightning`."""

    @staticmethod
    def forward(ctx, qkv: Tensor, slopes_H: Tensor, cu_seqlens: Tensor):  # type: ignore[override]
        qkv, cu_seqlens = qkv.contiguous(), cu_seqlens.long().contiguous()
        ctx.save_for_backward(qkv, slopes_H.float(), cu_seqlens)
        heads, dim = len(slopes_H), qkv.shape[1] // (3 * len(slopes_H))
        return _token_by_token(qkv, slopes_H, cu_seqlens, qkv.new_zeros(len(cu_seqlens) - 1, heads, dim, dim))

    @staticmethod
    def backward(ctx, do_THD: Tensor):  # type: ignore[override]
        return NativeLightning.backward(ctx, do_THD, None)[:3]


def lightning_decode(
    qkv_BJ: Tensor,
    slopes_H: Tensor,
    state_BHDD: Tensor,
    tail_BH2CD: Tensor | None = None,
    position_B: Tensor | None = None,
) -> Tensor:
    """One token a sequence, [B, H, D]; the state is updated in place.

    On GPUs it is the state before the token's tile, whose keys and values, after silu, lie in the tail.
    """
    if tail_BH2CD is None or position_B is None:
        return _token_by_token(qkv_BJ, slopes_H, torch.arange(len(qkv_BJ) + 1), state_BHDD)
    from lightning_cispo.kernels.exact.lightning_triton import lightning_decode_triton

    return lightning_decode_triton(qkv_BJ, slopes_H, position_B, state_BHDD, tail_BH2CD)


def tails(qkv_TJ: Tensor, heads: int, cu_seqlens: Tensor) -> Tensor:
    """On GPUs: [S, H, keys and values, tile, D] of the tile that each sequence ends in, after silu."""
    from lightning_cispo.kernels.exact.lightning_triton import tails_triton

    return tails_triton(qkv_TJ, heads, cu_seqlens)


def _token_by_token(qkv_TJ: Tensor, slopes_H: Tensor, cu_seqlens: Tensor, state_SHDD: Tensor) -> Tensor:
    """o [T, H, D]; states are updated in place. Natively, or in torch all sequences side by side, the longest first."""
    heads, dim = state_SHDD.shape[1:3]
    decay_H = torch.exp(-slopes_H.to(state_SHDD.dtype))
    o_THD = qkv_TJ.new_empty(len(qkv_TJ), heads, dim)
    if serves(qkv_TJ, state_SHDD):
        borders = cu_seqlens.long().contiguous()
        call("exact_lightning", len(borders) - 1, borders, heads, dim, qkv_TJ.contiguous(), decay_H, state_SHDD, o_THD)
        return o_THD
    q, k, v = pointwise(F.silu, qkv_TJ).view(len(qkv_TJ), heads, 3, dim).unbind(2)
    lengths_S, order_S = (cu_seqlens[1:] - cu_seqlens[:-1]).sort(descending=True)
    starts_S, state = cu_seqlens[:-1][order_S], state_SHDD[order_S]
    for t in range(int(lengths_S.max()) if len(lengths_S) else 0):
        count = int((lengths_S > t).sum())
        rows, now = starts_S[:count] + t, state[:count]
        # Products and sums that round by themselves, whatever loop they fall into.
        now.mul_(decay_H[:, None, None]).add_(k[rows][..., None] * v[rows][..., None, :])
        o_THD[rows] = (q[rows][..., None] * now).sum(-2)
    state_SHDD[order_S] = state
    return o_THD


def attention(q_THD: Tensor, k_UKD: Tensor, v_UKD: Tensor, cu_seqlens: Tensor, cu_seqlens_k: Tensor) -> Tensor:
    """As `kernels.attention.varlen_attention`."""

    def run(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        if q.is_cuda:
            from lightning_cispo.kernels.exact.attention_triton import attention_triton

            return attention_triton(q, k, v, cu_seqlens, cu_seqlens_k)
        lengths_S = cu_seqlens[1:] - cu_seqlens[:-1]
        first_T = cu_seqlens_k[:-1].repeat_interleave(lengths_S)
        # The last query sees the last key.
        late_S = cu_seqlens_k[1:] - cu_seqlens_k[:-1] - cu_seqlens[1:] + 1
        seen_T = torch.arange(len(q)) + late_S.repeat_interleave(lengths_S)
        if serves(q, k, v):
            return _native(q, k, v, seen_T, first_T=first_T)
        spans = zip(first_T.tolist(), seen_T.tolist(), q, strict=True)
        out = [
            _one_token(row, *(x[first : first + seen].transpose(0, 1) for x in (k, v))) for first, seen, row in spans
        ]
        return torch.stack(out) if out else torch.empty_like(q)

    def ordinary(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return varlen_attention(q, k, v, cu_seqlens, cu_seqlens_k)

    return straight(run, ordinary, q_THD, k_UKD, v_UKD)


def paged_attention(
    q_BHD: Tensor, keys_NKPD: Tensor, values_NKPD: Tensor, table_BM: Tensor, lengths_B: Tensor
) -> Tensor:
    """As `kernels.paged.paged_attention`; on GPUs for pages of 64 tokens."""
    if q_BHD.is_cuda:
        from lightning_cispo.kernels.exact.attention_triton import paged_triton

        return paged_triton(q_BHD, keys_NKPD, values_NKPD, table_BM, lengths_B)
    if serves(q_BHD, keys_NKPD, values_NKPD):
        return _native(q_BHD, keys_NKPD, values_NKPD, lengths_B, table_BM=table_BM)
    size, out = keys_NKPD.shape[2], []
    for q_HD, table_M, length in zip(q_BHD, table_BM, lengths_B.tolist(), strict=True):
        pages = table_M[: -(-length // size)]
        keys, values = (x[pages].transpose(0, 1).flatten(1, 2)[:, :length] for x in (keys_NKPD, values_NKPD))
        out.append(_one_token(q_HD, keys, values))
    return torch.stack(out)


def _native(
    q_THD: Tensor,
    keys: Tensor,
    values: Tensor,
    seen_T: Tensor,
    first_T: Tensor | None = None,
    table_BM: Tensor | None = None,
) -> Tensor:
    rows, heads, dim = q_THD.shape
    size, width = (1, 0) if table_BM is None else (keys.shape[2], table_BM.shape[1])
    o_THD = torch.empty(rows, heads, dim)
    where = None if table_BM is None else table_BM.contiguous(), first_T, seen_T.contiguous()
    held = q_THD.contiguous(), keys.contiguous(), values.contiguous()
    call("exact_attention", rows, heads, keys.shape[1], dim, size, width, *where, *held, o_THD)
    return o_THD


def _one_token(q_HD: Tensor, k_KLD: Tensor, v_KLD: Tensor) -> Tensor:
    """Always the same calls on the same shapes and layouts for a token."""
    heads, dim = q_HD.shape
    k_K1LD, v_K1LD = k_KLD.contiguous()[:, None], v_KLD.contiguous()[:, None]
    scores_KGL = (q_HD.view(len(k_KLD), -1, 1, dim) * k_K1LD).sum(-1) * dim**-0.5
    return (scores_KGL.softmax(-1)[..., None] * v_K1LD).sum(-2).view(heads, dim)


def rotary_tables(positions_T: Tensor, frequencies: Tensor) -> tuple[Tensor, Tensor]:
    """cos, sin [T, half] of float32 angles; natively where decoding is."""
    if not serves(frequencies):
        angles = positions_T.float()[:, None] * frequencies
        return angles.cos(), angles.sin()
    cos, sin = torch.empty(2, len(positions_T), len(frequencies))
    call("exact_rotary", *cos.shape, positions_T.long().contiguous(), frequencies.contiguous(), cos, sin)
    return cos, sin


def rotate(x_THD: Tensor, cos: Tensor, sin: Tensor, ordinary: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Tensor:
    """`ordinary(x, cos, sin)`, which turns each head; natively where decoding is native."""
    if not serves(x_THD, cos, sin):
        return ordinary(x_THD, cos, sin)

    def run(x: Tensor) -> Tensor:
        turned = x.contiguous().clone()
        call("exact_rotate", *x.shape, cos.shape[1], cos, sin, turned)
        return turned

    return straight(run, lambda x: ordinary(x, cos, sin), x_THD)
