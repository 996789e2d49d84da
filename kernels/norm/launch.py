"""RMSNorm in Triton, forward and backward: alone, before a sigmoid gate, and on a residual stream with its sums.

A program takes a few whole rows at a time. Backward, a fixed number of programs walk over the rows and each leaves its
part of the weight's gradient, which are then summed in order: the same bits every time.
"""

from __future__ import annotations

from typing import Any

import torch
import triton.language as tl
from torch import Tensor

from lightning_cispo.kernels.function import Function
from lightning_cispo.kernels.launcher import ceil_div, power_of_2
from lightning_cispo.kernels.norm.rows import norm_backward_kernel, norm_kernel, sum_kernel

_FEW = 2048  # rows of which a program takes one: a decoding batch's
_NAMES = {torch.bfloat16: tl.bfloat16, torch.float16: tl.float16, torch.float32: tl.float32}
_WALKERS = 528  # programs of the backward pass: four for each multiprocessor of an H100


def tiling(size: int, elements: int) -> dict[str, int]:
    """Rows of a program so that it holds about `elements`, and warps for them."""
    block = power_of_2(size)
    rows = max(1, elements // block)
    return {"SIZE": size, "BLOCK": block, "ROWS": rows, "num_warps": min(16, max(1, rows * block // 1024))}


def _forward(
    x: Tensor,
    residual: Tensor,
    other: Tensor,
    weight: Tensor,
    eps: float,
    dtype: torch.dtype,
    scales: tuple[float, float] = (1.0, 1.0),
    few: bool = False,
    add: bool = False,
    gate: bool = False,
    keep: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """The norm in `dtype`, the same as it was before rounding (with `keep`), and one over each row's rms.

    `other`: the update or the gate. `few` has a program for each row, so that a row's bits don't depend on the number
    of rows.
    """
    rows, size = residual.shape
    wide = residual.dtype != dtype
    out = torch.empty_like(x, dtype=dtype)
    rstd = torch.empty(rows, dtype=torch.float32, device=x.device)
    kept = torch.empty_like(residual) if keep and wide else out
    kernel: Any = norm_kernel
    tiles = tiling(size, 4096 if rows > _FEW and not few else size)
    flags = {"ADD": add, "GATE": gate, "WIDE": wide, "KEEP": keep and wide}
    if rows:
        grid = (ceil_div(rows, tiles["ROWS"]),)
        kernel[grid](x, residual, other, weight, out, kept, rstd, rows, *scales, eps, **tiles, **flags)
    return out, kept, rstd


def _backward(
    douts: tuple[Tensor | None, ...],
    dsum: Tensor | None,
    saved: tuple[Tensor, Tensor, Tensor, Tensor],
    dtypes: tuple[torch.dtype, torch.dtype],
    scales: tuple[float, float] = (1.0, 1.0),
    add: bool = False,
    gate: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of x (or the residual) and of the other, in `dtypes`, and of the weight. The norm has the second."""
    x, other, weight, rstd = saved
    rows, size = x.shape
    tiles = tiling(size, 2048)
    walkers = min(_WALKERS, max(1, ceil_div(rows, tiles["ROWS"])))
    dx = torch.empty_like(x, dtype=dtypes[0])
    dother = torch.empty_like(x, dtype=dtypes[1]) if add or gate else dx
    parts = torch.empty(walkers, size, dtype=torch.float32, device=x.device)
    found = [dout.contiguous() for dout in douts if dout is not None] or [torch.zeros_like(x)]
    grads = *found, *[found[0]] * (3 - len(found)), x if dsum is None else dsum.contiguous()
    flags = {"ADD": add, "GRADIENTS": len(found), "SUM": dsum is not None, "GATE": gate, "NARROW": _NAMES[dtypes[1]]}
    kernel: Any = norm_backward_kernel
    kernel[(walkers,)](*grads, x, other, weight, rstd, dx, dother, parts, rows, *scales, **tiles, **flags)
    return dx, dother, parts.sum(0).to(weight.dtype)


class RMSNorm(Function):
    @staticmethod
    def forward(ctx, x_TX, weight_X, eps, dtype, few=False):
        x_TX = x_TX.contiguous()
        out_TX, _, rstd_T = _forward(x_TX, x_TX, x_TX, weight_X, eps, dtype, few=few)
        ctx.save_for_backward(x_TX, x_TX, weight_X, rstd_T)
        ctx.dtypes = x_TX.dtype, dtype
        return out_TX

    @staticmethod
    def backward(ctx, dout_TX):
        dx_TX, _, dweight_X = _backward((dout_TX,), None, ctx.saved_tensors, ctx.dtypes)
        return dx_TX, dweight_X, None, None, None


class StreamNorm(Function):
    """`kernels.norm.rms_norm.stream_norm`; all gradients that reach x are added up in the backward kernel."""

    @staticmethod
    def forward(ctx, x_TX, weight_X, eps, dtype, postnorm, few=False):
        ctx.set_materialize_grads(False)
        x_TX = x_TX.contiguous()
        out_TX, kept_TX, rstd_T = _forward(x_TX, x_TX, x_TX, weight_X, eps, dtype, few=few, keep=postnorm)
        ctx.save_for_backward(x_TX, x_TX, weight_X, rstd_T)
        ctx.dtypes, ctx.postnorm = (x_TX.dtype, dtype), postnorm
        on_TX = kept_TX if postnorm else x_TX
        return on_TX.view_as(on_TX), out_TX

    @staticmethod
    def backward(ctx, don_TX, dout_TX):
        douts, dsum = ((don_TX, dout_TX), None) if ctx.postnorm else ((dout_TX,), don_TX)
        dx_TX, _, dweight_X = _backward(douts, dsum, ctx.saved_tensors, ctx.dtypes)
        return dx_TX, dweight_X, None, None, None, None


class AddedStreamNorm(Function):
    """`kernels.norm.rms_norm.added_stream_norm`."""

    @staticmethod
    def forward(ctx, residual_TX, update_TX, scales, weight_X, eps, postnorm, few=False):
        ctx.set_materialize_grads(False)
        residual_TX, update_TX = residual_TX.contiguous(), update_TX.contiguous()
        dtypes = residual_TX.dtype, update_TX.dtype
        x_TX = torch.empty_like(residual_TX)
        given = x_TX, residual_TX, update_TX, weight_X, eps, update_TX.dtype, scales
        out_TX, kept_TX, rstd_T = _forward(*given, few=few, add=True, keep=True)
        ctx.save_for_backward(x_TX, x_TX, weight_X, rstd_T)
        ctx.dtypes, ctx.scales, ctx.postnorm = dtypes, scales, postnorm
        return kept_TX.view_as(kept_TX) if postnorm else x_TX, kept_TX.view_as(kept_TX), out_TX

    @staticmethod
    def backward(ctx, don_TX, *douts):
        if ctx.postnorm:
            douts, don_TX = (don_TX, *douts), None
        grads = _backward(douts, don_TX, ctx.saved_tensors, ctx.dtypes, ctx.scales, add=True)
        dresidual_TX, dupdate_TX, dweight_X = grads
        return dresidual_TX, dupdate_TX, None, dweight_X, None, None, None


class GatedRMSNorm(Function):
    @staticmethod
    def forward(ctx, o_TX, gate_TX, weight_X, eps, few=False):
        o_TX, gate_TX = o_TX.contiguous(), gate_TX.contiguous()
        out_TX, _, rstd_T = _forward(o_TX, o_TX, gate_TX, weight_X, eps, o_TX.dtype, few=few, gate=True)
        ctx.save_for_backward(o_TX, gate_TX, weight_X, rstd_T)
        return out_TX

    @staticmethod
    def backward(ctx, dout_TX):
        o_TX, *rest = ctx.saved_tensors  # once: checkpointing computes them anew
        dtypes = o_TX.dtype, o_TX.dtype
        do_TX, dgate_TX, dweight_X = _backward((dout_TX,), None, (o_TX, *rest), dtypes, gate=True)
        return do_TX, dgate_TX, dweight_X, None, None


class ScaledSum(Function):
    """A float32 residual and a narrower update."""

    @staticmethod
    def forward(ctx, residual_TX, update_TX, scales):
        residual_TX, update_TX = residual_TX.contiguous(), update_TX.contiguous()
        ctx.scales, ctx.dtype = scales, update_TX.dtype
        x_TX = torch.empty_like(residual_TX)
        _sum(residual_TX, update_TX, x_TX, scales, False)
        return x_TX

    @staticmethod
    def backward(ctx, dx_TX):
        dx_TX = dx_TX.contiguous()
        dresidual_TX, dupdate_TX = torch.empty_like(dx_TX), torch.empty_like(dx_TX, dtype=ctx.dtype)
        _sum(dresidual_TX, dx_TX, dupdate_TX, ctx.scales, True)
        return dresidual_TX, dupdate_TX, None


def _sum(a: Tensor, b: Tensor, out: Tensor, scales: tuple[float, float], backward: bool) -> None:
    kernel: Any = sum_kernel
    if out.numel():
        grid = (ceil_div(out.numel(), 4096),)
        kernel[grid](a, b, out, out.numel(), *scales, BLOCK=4096, BACKWARD=backward, num_warps=8)
