"""Softmax attention whose output for a token is the same, to the bit, in a packed row and decoded alone over pages.

Keys are met in tiles of 64 from a sequence's start, one after the other, by tiles of 64 queries: in packed rows 64
tokens of a head, in decoding the heads of a token that share a key head. Rows of a tile do not depend on each other.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.decoding.linear_triton import begin, launch

TILE = 64


@triton.jit
def _attend(q, k, v, seen, top, total, out, scale, PRECISION: tl.constexpr):
    """One tile of keys more."""
    scores = tl.dot(q, tl.trans(k), input_precision=PRECISION) * scale
    scores = tl.where(seen, scores, float("-inf"))
    higher = tl.maximum(top, tl.max(scores, 1))
    weights = tl.exp(scores - higher[:, None])
    kept = tl.exp(top - higher)
    total = total * kept + tl.sum(weights, 1)
    out = tl.dot(weights.to(v.dtype), v, out * kept[:, None], input_precision=PRECISION)
    return higher, total, out


@triton.jit
def _attention_kernel(
    q_ptr,
    k_ptr,
    v_ptr,
    o_ptr,
    cu_q_ptr,
    cu_k_ptr,
    sequence_ptr,
    start_ptr,
    scale,
    q_row,
    k_row,
    v_row,
    H: tl.constexpr,
    GROUP: tl.constexpr,
    DIM: tl.constexpr,
    D: tl.constexpr,
    C: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """One head's tile of C queries against the keys before them, from the first on."""
    tile, head = tl.program_id(0), tl.program_id(1)
    sequence, start = tl.load(sequence_ptr + tile), tl.load(start_ptr + tile)
    first, queries = tl.load(cu_q_ptr + sequence), tl.load(cu_q_ptr + sequence + 1) - tl.load(cu_q_ptr + sequence)
    first_k, keys = tl.load(cu_k_ptr + sequence), tl.load(cu_k_ptr + sequence + 1) - tl.load(cu_k_ptr + sequence)
    if start >= queries:
        return
    i, d = tl.arange(0, C), tl.arange(0, DIM)
    rows = (first + start + i).to(tl.int64)
    position = keys - queries + start + i
    inside = (start + i < queries)[:, None] & (d < D)[None, :]
    q = tl.load(q_ptr + rows[:, None] * q_row + head * D + d[None, :], mask=inside, other=0.0)
    top = tl.full([C], float("-inf"), tl.float32)
    total = tl.zeros([C], tl.float32)
    out = tl.zeros([C, DIM], tl.float32)
    end = tl.minimum(keys - queries + start + C, keys)
    for done in range(0, end, C):
        others = (first_k + done + i).to(tl.int64)
        there = (done + i < keys)[:, None] & (d < D)[None, :]
        k = tl.load(k_ptr + others[:, None] * k_row + head // GROUP * D + d[None, :], mask=there, other=0.0)
        v = tl.load(v_ptr + others[:, None] * v_row + head // GROUP * D + d[None, :], mask=there, other=0.0)
        seen = (done + i)[None, :] <= position[:, None]
        top, total, out = _attend(q, k, v, seen, top, total, out, scale, PRECISION)
    o = (out / total[:, None]).to(o_ptr.dtype.element_ty)
    tl.store(o_ptr + (rows[:, None] * H + head) * D + d[None, :], o, mask=inside)


@triton.jit
def _paged_kernel(
    q_ptr,
    k_ptr,
    v_ptr,
    o_ptr,
    table_ptr,
    lengths_ptr,
    scale,
    table_stride,
    H: tl.constexpr,
    GROUP: tl.constexpr,
    DIM: tl.constexpr,
    D: tl.constexpr,
    C: tl.constexpr,
    PRECISION: tl.constexpr,
    NEW: tl.constexpr,
    PDL: tl.constexpr,
):
    """The query heads of one key head against its pages of C tokens, in tiles as tall as a packed row's."""
    row, head = tl.program_id(0), tl.program_id(1)
    begin(PDL)
    length = tl.load(lengths_ptr + row)
    if NEW:
        length += (length > 0).to(length.dtype)
    i, d = tl.arange(0, C), tl.arange(0, DIM)
    inside = (i < GROUP)[:, None] & (d < D)[None, :]
    q_at = (row * H + head * GROUP + i[:, None]) * D + d[None, :]
    q = tl.load(q_ptr + q_at, mask=inside, other=0.0)
    top = tl.full([C], float("-inf"), tl.float32)
    total = tl.zeros([C], tl.float32)
    out = tl.zeros([C, DIM], tl.float32)
    for index in range(0, tl.cdiv(length, C)):
        page = tl.load(table_ptr + row.to(tl.int64) * table_stride + index)
        at = (page * (H // GROUP) + head) * C * D + i[:, None] * D + d[None, :]
        there = (index * C + i < length)[:, None] & (d < D)[None, :]
        k = tl.load(k_ptr + at, mask=there, other=0.0)
        v = tl.load(v_ptr + at, mask=there, other=0.0)
        seen = ((index * C + i)[None, :] < length) & (i[:, None] >= 0)
        top, total, out = _attend(q, k, v, seen, top, total, out, scale, PRECISION)
    out = out / tl.where(total > 0, total, 1.0)[:, None]
    tl.store(o_ptr + q_at, out.to(o_ptr.dtype.element_ty), mask=inside)


def attention_triton(q_THD: Tensor, k_UKD: Tensor, v_UKD: Tensor, cu_q: Tensor, cu_k: Tensor) -> Tensor:
    """As `kernels.attention.varlen_attention`, contiguous heads."""
    tokens, heads, dim = q_THD.shape
    o_THD = torch.empty(tokens, heads, dim, dtype=q_THD.dtype, device=q_THD.device)
    counts_S = (cu_q[1:] - cu_q[:-1] + TILE - 1) // TILE
    ends_S = counts_S.cumsum(0)
    index_G = torch.arange(tokens // TILE + len(counts_S), device=cu_q.device)
    sequence_G = torch.searchsorted(ends_S, index_G, right=True).clamp(max=len(counts_S) - 1)
    start_G = (index_G - (ends_S - counts_S)[sequence_G]) * TILE
    kernel: Any = _attention_kernel
    kernel[(len(index_G), heads)](
        q_THD,
        k_UKD,
        v_UKD,
        o_THD,
        cu_q,
        cu_k,
        sequence_G,
        start_G,
        dim**-0.5,
        q_THD.stride(0),
        k_UKD.stride(0),
        v_UKD.stride(0),
        **_attention_sizes(heads, k_UKD.shape[1], dim, q_THD.dtype),
    )
    return o_THD


def paged_triton(
    q_BHD: Tensor,
    keys_NKPD: Tensor,
    values_NKPD: Tensor,
    table_BM: Tensor,
    lengths_B: Tensor,
    out: Tensor | None = None,
    new: bool = False,
    pdl: bool = False,
) -> Tensor:
    """As `kernels.paged.paged_attention`, for pages of TILE tokens; into `out`, if there is one.

    new: a token more than `lengths_B` says, but for rows of none, whose output is 0.
    """
    batch, heads, dim = q_BHD.shape
    kv_heads = keys_NKPD.shape[1]
    q_BHD = q_BHD.contiguous()
    out = torch.empty_like(q_BHD) if out is None else out
    kernel: Any = _paged_kernel
    kernel[(batch, kv_heads)](
        q_BHD,
        keys_NKPD,
        values_NKPD,
        out,
        table_BM,
        lengths_B,
        dim**-0.5,
        table_BM.stride(0),
        NEW=new,
        PDL=pdl,
        **_attention_sizes(heads, kv_heads, dim, q_BHD.dtype),
        **launch(pdl),
    )
    return out


def _attention_sizes(heads: int, kv_heads: int, dim: int, dtype: torch.dtype) -> dict[str, Any]:
    return {
        "H": heads,
        "GROUP": heads // kv_heads,
        "DIM": max(16, triton.next_power_of_2(dim)),
        "D": dim,
        "C": TILE,
        "PRECISION": "ieee" if dtype == torch.float32 else "tf32",
        "num_warps": 4,
        "num_stages": 2,
    }
