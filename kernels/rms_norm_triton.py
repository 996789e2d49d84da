"""RMSNorm in Triton, forward and backward: alone, before a sigmoid gate, and on a residual stream with its sums.

A program takes a few whole rows at a time. Backward, a fixed number of programs walk over the rows and each leaves its
part of the weight's gradient, which are then summed in order: the same bits every time.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.launcher import ceil_div, launched, power_of_2

_FEW = 2048  # rows of which a program takes one: a decoding batch's
_NAMES = {torch.bfloat16: tl.bfloat16, torch.float16: tl.float16, torch.float32: tl.float32}
_WALKERS = 528  # programs of the backward pass: four for each multiprocessor of an H100


@triton.jit
def norm_rows(
    x_ptr,
    residual_ptr,
    gate_ptr,
    weight_ptr,
    out_ptr,
    kept_ptr,
    rstd_ptr,
    rows,
    alpha,
    beta,
    eps,
    SIZE: tl.constexpr,
    BLOCK: tl.constexpr,
    ROWS: tl.constexpr,
    ADD: tl.constexpr,
    GATE: tl.constexpr,
    WIDE: tl.constexpr,
    KEEP: tl.constexpr,
):
    """ADD: x is written, the sum of residual and what `gate_ptr` then points at, the update. GATE: times sigmoid.

    WIDE: the stream is wider than the norm, which is rounded once; KEEP: and written to `kept_ptr` before that.
    """
    narrow = out_ptr.dtype.element_ty
    r = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    i = tl.arange(0, BLOCK)
    at = r.to(tl.int64)[:, None] * SIZE + i[None, :]
    inside = (r[:, None] < rows) & (i[None, :] < SIZE)
    if ADD:
        update = tl.load(gate_ptr + at, mask=inside, other=0.0).to(tl.float32) * beta
        if not WIDE:
            update = update.to(narrow).to(tl.float32)
        x = tl.load(residual_ptr + at, mask=inside, other=0.0).to(tl.float32) * alpha + update
        tl.store(x_ptr + at, x.to(x_ptr.dtype.element_ty), mask=inside)
        if not WIDE:
            x = x.to(narrow).to(tl.float32)
    else:
        x = tl.load(x_ptr + at, mask=inside, other=0.0).to(tl.float32)
    rstd = 1.0 / tl.sqrt_rn(tl.sum(x * x, 1) / SIZE + eps)
    tl.store(rstd_ptr + r, rstd, mask=r < rows)
    weight = tl.load(weight_ptr + i, mask=i < SIZE, other=0.0).to(narrow).to(tl.float32)
    normed = x * rstd[:, None]
    if not WIDE:
        normed = normed.to(narrow).to(tl.float32)
    normed *= weight[None, :]
    if KEEP:
        tl.store(kept_ptr + at, normed, mask=inside)
    if GATE:
        share = tl.sigmoid(tl.load(gate_ptr + at, mask=inside, other=0.0).to(tl.float32)).to(narrow).to(tl.float32)
        normed = share * normed.to(narrow).to(tl.float32)
    tl.store(out_ptr + at, normed.to(narrow), mask=inside)


_norm_kernel = launched(norm_rows)  # which kernels of decoding call, too


@launched
@triton.jit
def _norm_backward_kernel(
    dout_ptr,
    dtwin_ptr,
    dthird_ptr,
    dsum_ptr,
    x_ptr,
    gate_ptr,
    weight_ptr,
    rstd_ptr,
    dx_ptr,
    dother_ptr,
    dweight_ptr,
    rows,
    alpha,
    beta,
    SIZE: tl.constexpr,
    BLOCK: tl.constexpr,
    ROWS: tl.constexpr,
    ADD: tl.constexpr,
    GRADIENTS: tl.constexpr,
    SUM: tl.constexpr,
    GATE: tl.constexpr,
    NARROW: tl.constexpr,
):
    """dx, of so many GRADIENTS of the norm; with ADD the residual's and the update's gradients, to which SUM adds what
    reached x itself; with GATE the gate's. NARROW: what the weight was rounded to. `dweight_ptr`: float32
    [programs, SIZE]."""
    i = tl.arange(0, BLOCK)
    weight = tl.load(weight_ptr + i, mask=i < SIZE, other=0.0).to(NARROW).to(tl.float32)
    dweight = tl.zeros([BLOCK], tl.float32)
    for first in range(tl.program_id(0) * ROWS, rows, tl.num_programs(0) * ROWS):
        r = first + tl.arange(0, ROWS)
        at = r.to(tl.int64)[:, None] * SIZE + i[None, :]
        inside = (r[:, None] < rows) & (i[None, :] < SIZE)
        dout = tl.load(dout_ptr + at, mask=inside, other=0.0).to(tl.float32)
        if GRADIENTS > 1:
            dout += tl.load(dtwin_ptr + at, mask=inside, other=0.0).to(tl.float32)
        if GRADIENTS > 2:
            dout += tl.load(dthird_ptr + at, mask=inside, other=0.0).to(tl.float32)
        x = tl.load(x_ptr + at, mask=inside, other=0.0).to(tl.float32)
        rstd = tl.load(rstd_ptr + r, mask=r < rows, other=0.0)
        unit = x * rstd[:, None]
        if GATE:
            share = tl.sigmoid(tl.load(gate_ptr + at, mask=inside, other=0.0).to(tl.float32))
            dgate = dout * unit * weight[None, :] * share * (1.0 - share)
            tl.store(dother_ptr + at, dgate.to(dother_ptr.dtype.element_ty), mask=inside)
            dout = dout * share
        dweight += tl.sum(dout * unit, 0)
        dunit = dout * weight[None, :]
        dx = (dunit - unit * (tl.sum(dunit * unit, 1) / SIZE)[:, None]) * rstd[:, None]
        if SUM:
            dx += tl.load(dsum_ptr + at, mask=inside, other=0.0).to(tl.float32)
        if ADD:
            tl.store(dother_ptr + at, (dx * beta).to(dother_ptr.dtype.element_ty), mask=inside)
            dx = dx * alpha
        tl.store(dx_ptr + at, dx.to(dx_ptr.dtype.element_ty), mask=inside)
    tl.store(dweight_ptr + tl.program_id(0) * SIZE + i, dweight, mask=i < SIZE)


def _tiling(size: int, elements: int) -> dict[str, int]:
    """Rows of a program so that it holds about `elements`, and warps for them."""
    block = power_of_2(size)
    rows = max(1, elements // block)
    return {"SIZE": size, "BLOCK": block, "ROWS": rows, "num_warps": min(16, max(1, rows * block // 1024))}


def rms_norm_triton(x_TX: Tensor, weight_X: Tensor, eps: float) -> Tensor:
    """Without gradient, and with the same bits for a row whatever stands beside it: a program a row."""
    return _forward(x_TX, x_TX, x_TX, weight_X, eps, x_TX.dtype, few=True)[0]


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
    kernel: Any = _norm_kernel
    tiles = _tiling(size, 4096 if rows > _FEW and not few else size)
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
    tiles = _tiling(size, 2048)
    walkers = min(_WALKERS, max(1, ceil_div(rows, tiles["ROWS"])))
    dx = torch.empty_like(x, dtype=dtypes[0])
    dother = torch.empty_like(x, dtype=dtypes[1]) if add or gate else dx
    parts = torch.empty(walkers, size, dtype=torch.float32, device=x.device)
    found = [dout.contiguous() for dout in douts if dout is not None] or [torch.zeros_like(x)]
    grads = *found, *[found[0]] * (3 - len(found)), x if dsum is None else dsum.contiguous()
    flags = {"ADD": add, "GRADIENTS": len(found), "SUM": dsum is not None, "GATE": gate, "NARROW": _NAMES[dtypes[1]]}
    kernel: Any = _norm_backward_kernel
    kernel[(walkers,)](*grads, x, other, weight, rstd, dx, dother, parts, rows, *scales, **tiles, **flags)
    return dx, dother, parts.sum(0).to(weight.dtype)


class RMSNorm(torch.autograd.Function):
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


class StreamNorm(torch.autograd.Function):
    """`kernels.rms_norm.stream_norm`; all gradients that reach x are added up in the backward kernel."""

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


class AddedStreamNorm(torch.autograd.Function):
    """`kernels.rms_norm.added_stream_norm`."""

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


class GatedRMSNorm(torch.autograd.Function):
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


@launched
@triton.jit
def _sum_kernel(a_ptr, b_ptr, out_ptr, numbers, alpha, beta, BLOCK: tl.constexpr, BACKWARD: tl.constexpr):
    """alpha a + beta b; BACKWARD: out's gradient (b) to a's and, in `out_ptr`, the other's."""
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    b = tl.load(b_ptr + at, mask=at < numbers, other=0.0).to(tl.float32)
    if BACKWARD:
        tl.store(a_ptr + at, b * alpha, mask=at < numbers)
        out = b * beta
    else:
        out = tl.load(a_ptr + at, mask=at < numbers, other=0.0) * alpha + b * beta
    tl.store(out_ptr + at, out.to(out_ptr.dtype.element_ty), mask=at < numbers)


class ScaledSum(torch.autograd.Function):
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
    kernel: Any = _sum_kernel
    if out.numel():
        grid = (ceil_div(out.numel(), 4096),)
        kernel[grid](a, b, out, out.numel(), *scales, BLOCK=4096, BACKWARD=backward, num_warps=8)
