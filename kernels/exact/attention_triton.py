"""Softmax attention whose output for a token is the same, to the bit, in a packed row and decoded alone over pages.

Keys are met in tiles of 64 from a sequence's start, one after the other, by tiles of 64 queries: in packed rows 64
tokens of a head, in decoding the heads of a token that share a key head. Rows of a tile do not depend on each other.
Every 16 tiles are summed for themselves and then joined, in their order: decoding shares them out.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from lightning_cispo.kernels.decoding.linear_triton import begin, launch
from lightning_cispo.kernels.launcher import launched

TILE = 64
_SPLIT = 16  # tiles of keys that are summed for themselves, so that decoding can share a context out


@triton.jit
def _attend(q, k, v, seen, top, total, out, scale, PRECISION: tl.constexpr):
    """One tile of keys more."""
    scores = tl.dot(q, tl.trans(k), input_precision=PRECISION) * scale
    scores = tl.where(seen, scores, float("-inf"))
    higher = tl.maximum(top, tl.max(scores, 1))
    level = tl.where(higher > float("-inf"), higher, 0.0)  # in a split nobody may be seen
    weights = tl.exp(scores - level[:, None])
    kept = tl.exp(top - level)
    total = total * kept + tl.sum(weights, 1)
    out = tl.dot(weights.to(v.dtype), v, out * kept[:, None], input_precision=PRECISION)
    return higher, total, out


@triton.jit
def _joined(top, total, out, more_top, more_total, more_out):
    """A split more, beside what those before it came to: out [.., D]. The order of products and sums is said."""
    higher = tl.maximum(top, more_top)
    level = tl.where(higher > float("-inf"), higher, 0.0)
    kept, added = tl.exp(top - level), tl.exp(more_top - level)
    total = tl.fma(more_total, added, total * kept)
    return higher, total, tl.fma(more_out, added[:, None] + tl.zeros_like(out), out * kept[:, None])


@launched
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
    SPLIT: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """One head's tile of C queries against the keys before them, split after split from the first on."""
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
    for split in range(0, end, SPLIT * C):
        own_top, own_total = tl.full([C], float("-inf"), tl.float32), tl.zeros([C], tl.float32)
        own_out = tl.zeros([C, DIM], tl.float32)
        for done in range(split, tl.minimum(split + SPLIT * C, end), C):
            others = (first_k + done + i).to(tl.int64)
            there = (done + i < keys)[:, None] & (d < D)[None, :]
            k = tl.load(k_ptr + others[:, None] * k_row + head // GROUP * D + d[None, :], mask=there, other=0.0)
            v = tl.load(v_ptr + others[:, None] * v_row + head // GROUP * D + d[None, :], mask=there, other=0.0)
            seen = (done + i)[None, :] <= position[:, None]
            own_top, own_total, own_out = _attend(q, k, v, seen, own_top, own_total, own_out, scale, PRECISION)
        top, total, out = _joined(top, total, out, own_top, own_total, own_out)
    o = (out / total[:, None]).to(o_ptr.dtype.element_ty)
    tl.store(o_ptr + (rows[:, None] * H + head) * D + d[None, :], o, mask=inside)


@triton.jit
def _paged_kernel(
    q_ptr,
    k_ptr,
    v_ptr,
    out_ptr,
    top_ptr,
    total_ptr,
    table_ptr,
    lengths_ptr,
    scale,
    table_stride,
    H: tl.constexpr,
    GROUP: tl.constexpr,
    DIM: tl.constexpr,
    D: tl.constexpr,
    C: tl.constexpr,
    SPLIT: tl.constexpr,
    PRECISION: tl.constexpr,
    NEW: tl.constexpr,
    PDL: tl.constexpr,
):
    """The query heads of one key head against a split of SPLIT pages, in tiles as tall as a packed row's."""
    split, head, row = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    length = tl.load(lengths_ptr + row)
    if NEW:
        length += (length > 0).to(length.dtype)
    begin(PDL)
    if split * SPLIT * C >= length:
        return
    i, d = tl.arange(0, C), tl.arange(0, DIM)
    inside = (i < GROUP)[:, None] & (d < D)[None, :]
    q = tl.load(q_ptr + (row * H + head * GROUP + i[:, None]) * D + d[None, :], mask=inside, other=0.0)
    top = tl.full([C], float("-inf"), tl.float32)
    total = tl.zeros([C], tl.float32)
    out = tl.zeros([C, DIM], tl.float32)
    for index in range(split * SPLIT, tl.minimum((split + 1) * SPLIT, tl.cdiv(length, C))):
        page = tl.load(table_ptr + row.to(tl.int64) * table_stride + index)
        at = (page * (H // GROUP) + head) * C * D + i[:, None] * D + d[None, :]
        there = (index * C + i < length)[:, None] & (d < D)[None, :]
        k = tl.load(k_ptr + at, mask=there, other=0.0)
        v = tl.load(v_ptr + at, mask=there, other=0.0)
        seen = ((index * C + i)[None, :] < length) & (i[:, None] >= 0)
        top, total, out = _attend(q, k, v, seen, top, total, out, scale, PRECISION)
    at = (row.to(tl.int64) * tl.num_programs(0) + split) * H + head * GROUP + i
    tl.store(out_ptr + at[:, None] * D + d[None, :], out, mask=inside)
    tl.store(top_ptr + at, top, mask=i < GROUP)
    tl.store(total_ptr + at, total, mask=i < GROUP)


@triton.jit
def _join_kernel(
    out_ptr,
    top_ptr,
    total_ptr,
    lengths_ptr,
    o_ptr,
    splits,
    H: tl.constexpr,
    HEADS: tl.constexpr,
    DIM: tl.constexpr,
    D: tl.constexpr,
    TOKENS: tl.constexpr,
    NEW: tl.constexpr,
    PDL: tl.constexpr,
):
    """HEADS heads of a row: its splits of TOKENS tokens, one after the other."""
    row, h, d = tl.program_id(0), tl.program_id(1) * HEADS + tl.arange(0, HEADS), tl.arange(0, DIM)
    length = tl.load(lengths_ptr + row)
    if NEW:
        length += (length > 0).to(length.dtype)
    begin(PDL)
    inside = (h < H)[:, None] & (d < D)[None, :]
    top = tl.full([HEADS], float("-inf"), tl.float32)
    total = tl.zeros([HEADS], tl.float32)
    out = tl.zeros([HEADS, DIM], tl.float32)
    for split in tl.range(0, tl.cdiv(length, TOKENS), num_stages=3):
        at = (row.to(tl.int64) * splits + split) * H + h
        more_top = tl.load(top_ptr + at, mask=h < H, other=0.0)
        more_total = tl.load(total_ptr + at, mask=h < H, other=0.0)
        more_out = tl.load(out_ptr + at[:, None] * D + d[None, :], mask=inside, other=0.0)
        top, total, out = _joined(top, total, out, more_top, more_total, more_out)
    out = out / tl.where(total > 0, total, 1.0)[:, None]
    tl.store(o_ptr + (row * H + h)[:, None] * D + d[None, :], out.to(o_ptr.dtype.element_ty), mask=inside)


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
    space: tuple[Tensor, Tensor, Tensor] | None = None,
    new: bool = False,
    pdl: bool = False,
) -> Tensor:
    """As `kernels.paged.paged_attention`, for pages of TILE tokens; into `out`, if there is one.

    Args:
        space: `workspace` for at least as many rows and pages.
        new: a token more than `lengths_B` says, but for rows of none, whose output is 0.
    """
    batch, heads, dim = q_BHD.shape
    kv_heads = keys_NKPD.shape[1]
    q_BHD = q_BHD.contiguous()
    out = torch.empty_like(q_BHD) if out is None else out
    space = space or workspace(batch, heads, dim, table_BM.shape[1], q_BHD.device)
    splits = triton.cdiv(table_BM.shape[1], _SPLIT)
    sizes = _attention_sizes(heads, kv_heads, dim, q_BHD.dtype)
    kernel: Any = _paged_kernel
    kernel[(splits, kv_heads, batch)](
        q_BHD,
        keys_NKPD,
        values_NKPD,
        *space,
        table_BM,
        lengths_B,
        dim**-0.5,
        table_BM.stride(0),
        NEW=new,
        PDL=pdl,
        **sizes,
        **launch(pdl),
    )
    kernel = _join_kernel
    together = min(4, triton.next_power_of_2(heads))
    kernel[(batch, triton.cdiv(heads, together))](
        *space,
        lengths_B,
        out,
        splits,
        H=heads,
        HEADS=together,
        DIM=sizes["DIM"],
        D=dim,
        TOKENS=_SPLIT * TILE,
        NEW=new,
        PDL=pdl,
        num_warps=2,
        **launch(pdl),
    )
    return out


def workspace(rows: int, heads: int, dim: int, pages: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """What splits of contexts of up to so many pages leave for their joining, float32."""
    splits = triton.cdiv(pages, _SPLIT)
    out = torch.empty(rows, splits, heads, dim, device=device)
    return out, out.new_empty(rows, splits, heads), out.new_empty(rows, splits, heads)


def _attention_sizes(heads: int, kv_heads: int, dim: int, dtype: torch.dtype) -> dict[str, Any]:
    return {
        "H": heads,
        "GROUP": heads // kv_heads,
        "DIM": max(16, triton.next_power_of_2(dim)),
        "D": dim,
        "C": TILE,
        "SPLIT": _SPLIT,
        "PRECISION": "ieee" if dtype == torch.float32 else "tf32",
        "num_warps": 4,
        "num_stages": 2,
    }
