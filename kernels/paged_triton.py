"""Paged attention in Triton: every sequence's pages split among programs, their partial softmaxes joined after.

Lengths are read on the device and the grid depends on shapes alone, so a CUDA graph of it serves any lengths.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

# Programs that fill a large GPU: a few for each of its 132 multiprocessors.
_PROGRAMS = 512
_MAX_SPLITS = 64


@triton.jit
def _split_kernel(
    q_ptr,
    k_ptr,
    v_ptr,
    table_ptr,
    lengths_ptr,
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
    SPLITS: tl.constexpr,
):
    """Softmax over one split's pages for the query heads of one key head: weighted values and log-sum-exp."""
    row, head, split = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    length = tl.load(lengths_ptr + row)
    pages = tl.cdiv(length, PAGE)
    share = tl.cdiv(pages, SPLITS)
    first = split * share
    last = tl.minimum(first + share, pages)
    g, t, d = tl.arange(0, ROWS), tl.arange(0, PAGE), tl.arange(0, DIM_PADDED)
    q_at = (row * KV * GROUP + head * GROUP + g[:, None]) * DIM + d[None, :]
    inside = (g[:, None] < GROUP) & (d[None, :] < DIM)
    q = tl.load(q_ptr + q_at, mask=inside, other=0.0)
    top = tl.full([ROWS], float("-inf"), tl.float32)
    total = tl.zeros([ROWS], tl.float32)
    out = tl.zeros([ROWS, DIM_PADDED], tl.float32)
    for index in range(first, last):
        page = tl.load(table_ptr + row.to(tl.int64) * table_stride + index)
        seen = index * PAGE + t < length
        at = (page * KV + head) * PAGE * DIM + t[:, None] * DIM + d[None, :]
        there = seen[:, None] & (d[None, :] < DIM)
        k = tl.load(k_ptr + at, mask=there, other=0.0)
        v = tl.load(v_ptr + at, mask=there, other=0.0)
        scores = tl.dot(q, tl.trans(k), input_precision="ieee") * scale
        scores = tl.where(seen[None, :], scores, float("-inf"))
        higher = tl.maximum(top, tl.max(scores, 1))
        weights = tl.exp(scores - higher[:, None])
        kept = tl.exp(top - higher)
        total = total * kept + tl.sum(weights, 1)
        out = out * kept[:, None] + tl.dot(weights.to(v.dtype), v, input_precision="ieee")
        top = higher
    some = total > 0
    out = out / tl.where(some, total, 1.0)[:, None]
    lse = tl.where(some, top + tl.log(tl.where(some, total, 1.0)), float("-inf"))
    base = (row * KV * GROUP + head * GROUP + g) * SPLITS + split
    tl.store(partial_ptr + base[:, None] * DIM + d[None, :], out, mask=inside)
    tl.store(lse_ptr + base, lse, mask=g < GROUP)


@triton.jit
def _join_kernel(partial_ptr, lse_ptr, out_ptr, DIM: tl.constexpr, DIM_PADDED: tl.constexpr, SPLITS: tl.constexpr):
    """The splits of one head, weighted by what each holds of the softmax."""
    head = tl.program_id(0)
    s, d = tl.arange(0, SPLITS), tl.arange(0, DIM_PADDED)
    lse = tl.load(lse_ptr + head * SPLITS + s)
    weights = tl.exp(lse - tl.max(lse, 0))
    inside = d[None, :] < DIM
    parts = tl.load(partial_ptr + (head * SPLITS + s[:, None]) * DIM + d[None, :], mask=inside, other=0.0)
    out = tl.sum(parts * weights[:, None], 0) / tl.sum(weights, 0)
    tl.store(out_ptr + head * DIM + d, out.to(out_ptr.dtype.element_ty), mask=d < DIM)


def paged_attention_triton(
    q_BHD: Tensor, keys_NKPD: Tensor, values_NKPD: Tensor, table_BM: Tensor, lengths_B: Tensor
) -> Tensor:
    """As `kernels.paged.paged_attention`. Raises ValueError for a page size that is no power of two from 16."""
    batch, heads, dim = q_BHD.shape
    _, kv_heads, page, _ = keys_NKPD.shape
    if page < 16 or page & (page - 1):
        raise ValueError(f"pages of {page} tokens: must be a power of two, at least 16")
    group = heads // kv_heads
    wanted = max(1, _PROGRAMS // (batch * kv_heads))
    splits = min(triton.next_power_of_2(wanted), _MAX_SPLITS)
    q_BHD = q_BHD.contiguous()
    partial = torch.empty(batch, heads, splits, dim, dtype=torch.float32, device=q_BHD.device)
    lse = torch.empty(batch, heads, splits, dtype=torch.float32, device=q_BHD.device)
    out = torch.empty_like(q_BHD)
    padded = max(16, triton.next_power_of_2(dim))
    split_kernel: Any = _split_kernel
    split_kernel[(batch, kv_heads, splits)](
        q_BHD,
        keys_NKPD,
        values_NKPD,
        table_BM,
        lengths_B,
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
        SPLITS=splits,
    )
    join_kernel: Any = _join_kernel
    join_kernel[(batch * heads,)](partial, lse, out, DIM=dim, DIM_PADDED=padded, SPLITS=splits)
    return out
