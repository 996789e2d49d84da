"""The LM head of a decoding step in Triton: float32 weights on tensor cores, without rounding them."""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl
from torch import Tensor

from lightning_cispo.kernels.decoding.linear_triton import Tiles, begin, fetch_ahead, launch, lines


@triton.jit(do_not_specialize=["rows"])
def _head_kernel(
    x_ptr,
    weight_ptr,
    out_ptr,
    rows,
    V: tl.constexpr,
    K: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
    BR: tl.constexpr,
    AHEAD: tl.constexpr,
    PDL: tl.constexpr,
):
    """Float32 weights times bf16 rows: a float32 number is the sum of three bf16 ones, so that products are exact."""
    n, r, k = tl.program_id(1) * BN + tl.arange(0, BN), tl.program_id(0) * BR + tl.arange(0, BR), tl.arange(0, BK)
    w_at = weight_ptr + tl.minimum(n, V - 1)[:, None].to(tl.int64) * K + k[None, :]
    x_at = x_ptr + tl.minimum(r, rows - 1)[:, None] * K + k[None, :]
    if tl.program_id(0) == 0:
        fetch_ahead(weight_ptr + tl.minimum(n, V - 1).to(tl.int64) * K, 4, AHEAD)
    begin(PDL)
    acc = tl.zeros([BN, BR], tl.float32)
    for done in range(0, K, BK):
        if K % BK == 0:
            w, x = tl.load(w_at + done), tl.trans(tl.load(x_at + done))
        else:
            inside = (done + k < K)[None, :]
            w = tl.load(w_at + done, mask=inside, other=0.0)
            x = tl.trans(tl.load(x_at + done, mask=inside, other=0.0))
        high = w.to(x.dtype)
        rest = w - high.to(tl.float32)
        middle = rest.to(x.dtype)
        low = (rest - middle.to(tl.float32)).to(x.dtype)
        acc = tl.dot(low, x, acc, input_precision="ieee")
        acc = tl.dot(middle, x, acc, input_precision="ieee")
        acc = tl.dot(high, x, acc, input_precision="ieee")
    tl.store(out_ptr + r[None, :].to(tl.int64) * V + n[:, None], acc, mask=(n < V)[:, None] & (r < rows)[None, :])


def decode_head(x_BK: Tensor, weight_VK: Tensor, out_BV: Tensor, tiles: Tiles, pdl: bool = False) -> None:
    """Logits in float32 from a float32 weight and rows of 16 bits."""
    rows, inputs = x_BK.shape
    kernel: Any = _head_kernel
    kernel[(triton.cdiv(rows, tiles.rows), triton.cdiv(len(weight_VK), tiles.outputs))](
        x_BK,
        weight_VK,
        out_BV,
        rows,
        V=len(weight_VK),
        K=inputs,
        BN=tiles.outputs,
        BK=tiles.inputs,
        BR=tiles.rows,
        AHEAD=lines(weight_VK, inputs, 8),
        PDL=pdl,
        num_warps=tiles.warps,
        num_stages=tiles.stages,
        **launch(pdl),
    )
