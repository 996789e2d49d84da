"""The rotary embedding in Triton, alike for packed rows and for one token on its way to its page."""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from lightning_cispo.kernels.decoding.linear_triton import begin, launch
from lightning_cispo.kernels.function import Function
from lightning_cispo.kernels.launcher import launched, power_of_2


@triton.jit
def _turned(x_at, d, inside, cos_ptr, sin_ptr, D: tl.constexpr, HALF: tl.constexpr):
    """Heads at `x_at` [heads, 1], the first 2 HALF dims rotated, halves as pairs; rounded once."""
    partner = tl.where(d < HALF, d + HALF, tl.where(d < 2 * HALF, d - HALF, d))
    turns, pair = d < 2 * HALF, tl.where(d < HALF, d, d - HALF)
    x = tl.load(x_at + d[None, :], mask=inside, other=0.0)
    other = tl.load(x_at + partner[None, :], mask=inside, other=0.0).to(tl.float32)
    cos = tl.load(cos_ptr + pair, mask=turns, other=1.0)
    sin = tl.load(sin_ptr + pair, mask=turns, other=0.0)
    sin = tl.where(d < HALF, -sin, sin)
    # Said explicitly, as a compiler may join the product and the sum in more than one way.
    return tl.fma(x.to(tl.float32), cos[None, :] + tl.zeros_like(other), other * sin[None, :]).to(x.dtype)


@launched
@triton.jit
def _rotate_kernel(
    x_ptr,
    cos_ptr,
    sin_ptr,
    out_ptr,
    x_row,
    H: tl.constexpr,
    HEADS: tl.constexpr,
    D: tl.constexpr,
    DIM: tl.constexpr,
    HALF: tl.constexpr,
):
    row, h, d = tl.program_id(0).to(tl.int64), tl.arange(0, HEADS), tl.arange(0, DIM)
    inside = (h < H)[:, None] & (d < D)[None, :]
    x = _turned(x_ptr + row * x_row + h[:, None] * D, d, inside, cos_ptr + row * HALF, sin_ptr + row * HALF, D, HALF)
    tl.store(out_ptr + (row * H + h[:, None]) * D + d[None, :], x, mask=inside)


@triton.jit
def _place_kernel(
    q_ptr,
    k_ptr,
    v_ptr,
    cos_ptr,
    sin_ptr,
    turned_ptr,
    keys_ptr,
    values_ptr,
    table_ptr,
    position_ptr,
    table_stride,
    H: tl.constexpr,
    KV: tl.constexpr,
    HEADS: tl.constexpr,
    PAGE: tl.constexpr,
    D: tl.constexpr,
    DIM: tl.constexpr,
    HALF: tl.constexpr,
    PDL: tl.constexpr,
):
    """A token's queries rotated; its rotated keys, and its values, to their place. Nothing for rows at position 0."""
    row, h, d = tl.program_id(0).to(tl.int64), tl.arange(0, HEADS), tl.arange(0, DIM)
    position = tl.load(position_ptr + row)
    page = tl.load(table_ptr + row * table_stride + position // PAGE)
    begin(PDL)
    if position <= 0:
        return
    wide, narrow = (h < H)[:, None] & (d < D)[None, :], (h < KV)[:, None] & (d < D)[None, :]
    cos_at, sin_at = cos_ptr + row * HALF, sin_ptr + row * HALF
    q = _turned(q_ptr + row * H * D + h[:, None] * D, d, wide, cos_at, sin_at, D, HALF)
    tl.store(turned_ptr + (row * H + h[:, None]) * D + d[None, :], q, mask=wide)
    at = ((page * KV + h[:, None]) * PAGE + position % PAGE) * D + d[None, :]
    k = _turned(k_ptr + row * KV * D + h[:, None] * D, d, narrow, cos_at, sin_at, D, HALF)
    tl.store(keys_ptr + at, k, mask=narrow)
    v = tl.load(v_ptr + (row * KV + h[:, None]) * D + d[None, :], mask=narrow, other=0.0)
    tl.store(values_ptr + at, v, mask=narrow)


def rotate_triton(x_THD: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """As `model.layers.rotate`, contiguous; cos, sin float32 [T, half]."""
    tokens, heads, dim = x_THD.shape
    x_THD = x_THD if x_THD.stride()[1:] == (dim, 1) else x_THD.contiguous()
    out = torch.empty(tokens, heads, dim, dtype=x_THD.dtype, device=x_THD.device)
    kernel: Any = _rotate_kernel
    if tokens:
        sizes = _sizes(heads, dim, cos.shape[1])
        kernel[(tokens,)](x_THD, cos.contiguous(), sin.contiguous(), out, x_THD.stride(0), **sizes)
    return out


class Rotate(Function):
    """`rotate_triton`, whose gradient turns the other way."""

    @staticmethod
    def forward(ctx, x_THD: Tensor, cos: Tensor, sin: Tensor):
        ctx.save_for_backward(cos, sin)
        return rotate_triton(x_THD, cos, sin)

    @staticmethod
    def backward(ctx, dout_THD: Tensor):
        cos, sin = ctx.saved_tensors
        return rotate_triton(dout_THD, cos, -sin), None, None


def place_triton(
    qkv: tuple[Tensor, Tensor, Tensor],
    cos: Tensor,
    sin: Tensor,
    turned_BHD: Tensor,
    keys_NKPD: Tensor,
    values_NKPD: Tensor,
    table_BM: Tensor,
    position_B: Tensor,
    pdl: bool = False,
) -> None:
    """Rotate the queries [B, H D] of one token a row into `turned_BHD`, and write its keys and values [B, Kv D].

    Nothing is read or written for rows at position 0.
    """
    (rows, heads, dim), (_, kv_heads, page, _) = turned_BHD.shape, keys_NKPD.shape
    kernel: Any = _place_kernel
    kernel[(rows,)](
        *qkv,
        cos,
        sin,
        turned_BHD,
        keys_NKPD,
        values_NKPD,
        table_BM,
        position_B,
        table_BM.stride(0),
        KV=kv_heads,
        PAGE=page,
        PDL=pdl,
        **_sizes(heads, dim, cos.shape[1]),
        **launch(pdl),
    )


def _sizes(heads: int, dim: int, half: int) -> dict[str, int]:
    return {
        "H": heads,
        "HEADS": power_of_2(heads),
        "D": dim,
        "DIM": power_of_2(dim),
        "HALF": half,
    }
