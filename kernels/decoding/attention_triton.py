"""Softmax attention of a decoding step in Triton, the rotary embedding and writing the new key and value included.

Splits of a context have a fixed length, so that a row's sums don't depend on the batch. Lengths are read on the device
and the grid depends on shapes alone: a CUDA graph of it serves any lengths.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from lightning_cispo.kernels.decoding.linear_triton import begin, launch

_SPLIT_TOKENS = 512
_MOST_SPLITS = 64
_WARPS, _STAGES = 2, 3  # of a program that walks over a split


@triton.jit
def _rotated(ptr, d, cos, sin, D: tl.constexpr, HALF: tl.constexpr):
    """A head's vector(s) at ptr [.., D], the first 2 HALF dims rotated (halves as pairs)."""
    partner = tl.where(d < HALF, d + HALF, tl.where(d < 2 * HALF, d - HALF, d))
    x = tl.load(ptr + d, mask=d < D, other=0.0)
    other = tl.load(ptr + partner, mask=d < D, other=0.0)
    return x * cos + other * sin


@triton.jit
def _split_kernel(
    joined_ptr,
    inverse_ptr,
    keys_ptr,
    values_ptr,
    table_ptr,
    position_ptr,
    partial_ptr,
    lse_ptr,
    scale,
    table_stride,
    KV: tl.constexpr,
    GROUP: tl.constexpr,
    ROWS: tl.constexpr,
    PAGE: tl.constexpr,
    DIM: tl.constexpr,
    DIM_PADDED: tl.constexpr,
    HALF: tl.constexpr,
    SPLIT: tl.constexpr,
    SPLITS: tl.constexpr,
    NEW: tl.constexpr,
    PDL: tl.constexpr,
):
    """Softmax over one split's tokens for the query heads of one key head: weighted values and log-sum-exp.

    NEW: `position_ptr` has the place of a token whose query, key and value lie side by side before rotation: its split
    writes it to its page, and counts it from where it was computed. Else it has the lengths that queries see of pages.
    """
    split, head, row = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    begin(PDL)
    position = tl.load(position_ptr + row).to(tl.int32)
    if (position <= 0) | (position < split * SPLIT * PAGE + (0 if NEW else 1)):
        return
    g, t, d = tl.arange(0, ROWS), tl.arange(0, PAGE), tl.arange(0, DIM_PADDED)
    line = joined_ptr + row.to(tl.int64) * ((GROUP + (2 if NEW else 0)) * KV * DIM)
    q_at = line + (head * GROUP + tl.minimum(g, GROUP - 1))[:, None] * DIM
    if NEW:
        rotates = d < 2 * HALF
        inverse = tl.load(inverse_ptr + tl.where(d < HALF, d, d - HALF), mask=rotates, other=0.0)
        angle = position.to(tl.float32) * inverse
        cos, sin = tl.cos(angle), tl.where(d < HALF, -tl.sin(angle), tl.sin(angle))
        q = _rotated(q_at, d[None, :], cos[None, :], sin[None, :], DIM, HALF).to(keys_ptr.dtype.element_ty)
    else:
        q = tl.load(q_at + d[None, :], mask=d[None, :] < DIM, other=0.0)
    top = tl.full([ROWS], float("-inf"), tl.float32)
    total = tl.zeros([ROWS], tl.float32)
    out = tl.zeros([ROWS, DIM_PADDED], tl.float32)
    pages = table_ptr + row.to(tl.int64) * table_stride
    last = tl.minimum((split + 1) * SPLIT, tl.cdiv(position, PAGE))
    for index in range(split * SPLIT, last):
        page = tl.load(pages + index)
        seen = index * PAGE + t < position
        at = (page * KV + head) * PAGE * DIM + t[:, None] * DIM + d[None, :]
        there = seen[:, None] & (d[None, :] < DIM)
        k = tl.load(keys_ptr + at, mask=there, other=0.0)
        v = tl.load(values_ptr + at, mask=there, other=0.0)
        scores = tl.dot(q, tl.trans(k), input_precision="ieee") * scale
        scores = tl.where(seen[None, :], scores, float("-inf"))
        higher = tl.maximum(top, tl.max(scores, 1))
        weights = tl.exp(scores - higher[:, None])
        kept = tl.exp(top - higher)
        total = total * kept + tl.sum(weights, 1)
        out = out * kept[:, None] + tl.dot(weights.to(v.dtype), v, input_precision="ieee")
        top = higher
    if NEW:
        if position // PAGE // SPLIT == split:
            k = _rotated(line + (KV * GROUP + head) * DIM, d, cos, sin, DIM, HALF).to(keys_ptr.dtype.element_ty)
            v = tl.load(line + (KV * GROUP + KV + head) * DIM + d, mask=d < DIM, other=0.0)
            v = v.to(values_ptr.dtype.element_ty)
            page = tl.load(pages + position // PAGE)
            at = ((page * KV + head) * PAGE + position % PAGE) * DIM + d
            tl.store(keys_ptr + at, k, mask=d < DIM)
            tl.store(values_ptr + at, v, mask=d < DIM)
            score = tl.sum(q.to(tl.float32) * k.to(tl.float32)[None, :], 1) * scale
            higher = tl.maximum(top, score)
            weight, kept = tl.exp(score - higher), tl.exp(top - higher)
            total = total * kept + weight
            out = out * kept[:, None] + weight[:, None] * v.to(tl.float32)[None, :]
            top = higher
    base = ((row * KV + head) * GROUP + g) * SPLITS + split
    inside = (g[:, None] < GROUP) & (d[None, :] < DIM)
    tl.store(partial_ptr + base[:, None].to(tl.int64) * DIM + d[None, :], out / total[:, None], mask=inside)
    tl.store(lse_ptr + base, top + tl.log(total), mask=g < GROUP)


@triton.jit
def _join_kernel(
    partial_ptr,
    lse_ptr,
    position_ptr,
    out_ptr,
    H: tl.constexpr,
    DIM: tl.constexpr,
    DIM_PADDED: tl.constexpr,
    TOKENS: tl.constexpr,
    SPLITS: tl.constexpr,
    SPLITS_PADDED: tl.constexpr,
    NEW: tl.constexpr,
    PDL: tl.constexpr,
):
    """The splits of one head, weighted by what each holds of the softmax. Idle rows get zeros."""
    row, head = tl.program_id(1), tl.program_id(0)
    s, d = tl.arange(0, SPLITS_PADDED), tl.arange(0, DIM_PADDED)
    begin(PDL)
    position = tl.load(position_ptr + row)
    there = (s < SPLITS) & (s * TOKENS + (0 if NEW else 1) <= position) & (position > 0)
    base = (row * H + head) * SPLITS + s
    lse = tl.load(lse_ptr + base, mask=there, other=float("-inf"))
    weights = tl.where(there, tl.exp(lse - tl.max(lse, 0)), 0.0)
    inside = there[:, None] & (d[None, :] < DIM)
    parts = tl.load(partial_ptr + base[:, None].to(tl.int64) * DIM + d[None, :], mask=inside, other=0.0)
    total = tl.sum(weights, 0)
    out = tl.sum(parts * weights[:, None], 0) / tl.where(total > 0, total, 1.0)
    tl.store(out_ptr + (row * H + head) * DIM + d, out.to(out_ptr.dtype.element_ty), mask=d < DIM)


def splits_of(max_tokens: int, page: int) -> tuple[int, int]:
    """Splits of a context of at most so many tokens, and pages of each: what the capacity says, never the batch."""
    pages = max(1, triton.cdiv(max_tokens, page))
    size = max(1, _SPLIT_TOKENS // page, triton.cdiv(pages, _MOST_SPLITS))
    return triton.cdiv(pages, size), size


def decode_attention(
    joined_BJ: Tensor,
    inverse_F: Tensor,
    keys_NKPD: Tensor,
    values_NKPD: Tensor,
    table_BM: Tensor,
    position_B: Tensor,
    heads: int,
    partial: Tensor,
    lse: Tensor,
    o_BW: Tensor,
    pdl: bool = False,
) -> None:
    """One query a sequence over its pages and itself; its key and value are written to their place.

    Args:
        joined_BJ: float32 [B, (H + 2 Kv) D]: queries, keys, values, before rotation.
        inverse_F: float32, the frequencies of the pairs that rotate.
        keys_NKPD, values_NKPD: pages; table_BM: int64, M pages being the most a sequence may have.
        position_B: int64, the new token's; 0: an idle row, whose output is 0.
        partial, lse: `workspace` for at least B rows.
        o_BW: [B, H D], written.
    """
    pages = keys_NKPD, values_NKPD, table_BM
    _run(joined_BJ, inverse_F, *pages, position_B, heads, partial, lse, o_BW, new=True, pdl=pdl)


def paged_attention_triton(
    q_BHD: Tensor, keys_NKPD: Tensor, values_NKPD: Tensor, table_BM: Tensor, lengths_B: Tensor
) -> Tensor:
    """As `kernels.paged.paged_attention`. Raises ValueError for a page size that is no power of two from 16."""
    (batch, heads, dim), page = q_BHD.shape, keys_NKPD.shape[2]
    if page < 16 or page & (page - 1):
        raise ValueError(f"pages of {page} tokens: must be a power of two, at least 16")
    q_BHD = q_BHD.contiguous()
    space, out = workspace(batch, heads, dim, table_BM.shape[1] * page, page, q_BHD.device), torch.empty_like(q_BHD)
    _run(q_BHD, q_BHD, keys_NKPD, values_NKPD, table_BM, lengths_B, heads, *space, out, new=False, pdl=False)
    return out


def _run(
    joined: Tensor,
    inverse_F: Tensor,
    keys_NKPD: Tensor,
    values_NKPD: Tensor,
    table_BM: Tensor,
    position_B: Tensor,
    heads: int,
    partial: Tensor,
    lse: Tensor,
    out: Tensor,
    new: bool,
    pdl: bool,
) -> None:
    batch, (_, kv_heads, page, dim) = len(joined), keys_NKPD.shape
    group = heads // kv_heads
    splits, size = splits_of(table_BM.shape[1] * page, page)
    padded = max(16, triton.next_power_of_2(dim))
    split_kernel: Any = _split_kernel
    split_kernel[(splits, kv_heads, batch)](
        joined,
        inverse_F,
        keys_NKPD,
        values_NKPD,
        table_BM,
        position_B,
        partial,
        lse,
        dim**-0.5,
        table_BM.stride(0),
        KV=kv_heads,
        GROUP=group,
        ROWS=max(16, triton.next_power_of_2(group)),
        PAGE=page,
        DIM=dim,
        DIM_PADDED=padded,
        HALF=len(inverse_F),
        SPLIT=size,
        SPLITS=splits,
        NEW=new,
        PDL=pdl,
        num_warps=_WARPS,
        num_stages=_STAGES,
        **launch(pdl),
    )
    join_kernel: Any = _join_kernel
    join_kernel[(heads, batch)](
        partial,
        lse,
        position_B,
        out,
        H=heads,
        DIM=dim,
        DIM_PADDED=padded,
        TOKENS=size * page,
        SPLITS=splits,
        SPLITS_PADDED=triton.next_power_of_2(splits),
        NEW=new,
        PDL=pdl,
        **launch(pdl),
    )


def workspace(
    batch: int, heads: int, dim: int, max_tokens: int, page: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Partial results of the splits, [B, H, splits, D] and [B, H, splits], float32."""
    splits, _ = splits_of(max_tokens, page)
    partial = torch.empty(batch, heads, splits, dim, device=device)
    return partial, partial.new_empty(batch, heads, splits)
