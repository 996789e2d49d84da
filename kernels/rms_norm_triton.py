"""RMSNorm in Triton, forward and backward: alone, after a scaled sum, before a sigmoid gate.

A program takes a few whole rows at a time. Backward, a fixed number of programs walk over the rows and each leaves its
part of the weight's gradient, which are then summed in order: the same bits every time.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

_FEW = 2048  # rows of which a program takes one: a decoding batch's
_WALKERS = 528  # programs of the backward pass: four for each multiprocessor of an H100


@triton.jit
def _norm_kernel(
    x_ptr,
    residual_ptr,
    gate_ptr,
    weight_ptr,
    out_ptr,
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
):
    """ADD: x is written, the sum of residual and what `gate_ptr` then points at, the update. GATE: times sigmoid."""
    narrow = out_ptr.dtype.element_ty
    r = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    i = tl.arange(0, BLOCK)
    at = r.to(tl.int64)[:, None] * SIZE + i[None, :]
    inside = (r[:, None] < rows) & (i[None, :] < SIZE)
    if ADD:
        update = tl.load(gate_ptr + at, mask=inside, other=0.0).to(tl.float32)
        update = (update * beta).to(narrow).to(tl.float32)
        x = tl.load(residual_ptr + at, mask=inside, other=0.0).to(tl.float32) * alpha + update
        tl.store(x_ptr + at, x.to(narrow), mask=inside)
        x = x.to(narrow).to(tl.float32)
    else:
        x = tl.load(x_ptr + at, mask=inside, other=0.0).to(tl.float32)
    rstd = 1.0 / tl.sqrt_rn(tl.sum(x * x, 1) / SIZE + eps)
    tl.store(rstd_ptr + r, rstd, mask=r < rows)
    weight = tl.load(weight_ptr + i, mask=i < SIZE, other=0.0).to(narrow).to(tl.float32)
    normed = (x * rstd[:, None]).to(narrow).to(tl.float32) * weight[None, :]
    if GATE:
        share = tl.sigmoid(tl.load(gate_ptr + at, mask=inside, other=0.0).to(tl.float32)).to(narrow).to(tl.float32)
        normed = share * normed.to(narrow).to(tl.float32)
    tl.store(out_ptr + at, normed.to(narrow), mask=inside)


@triton.jit
def _norm_backward_kernel(
    dout_ptr,
    dtwin_ptr,
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
    TWIN: tl.constexpr,
    SUM: tl.constexpr,
    GATE: tl.constexpr,
):
    """dx, where TWIN adds a second gradient of the norm; with ADD the residual's and the update's gradients, to which
    SUM adds what reached x itself; with GATE the gate's. `dweight_ptr`: float32 [programs, SIZE]."""
    narrow = dx_ptr.dtype.element_ty
    i = tl.arange(0, BLOCK)
    weight = tl.load(weight_ptr + i, mask=i < SIZE, other=0.0).to(narrow).to(tl.float32)
    dweight = tl.zeros([BLOCK], tl.float32)
    for first in range(tl.program_id(0) * ROWS, rows, tl.num_programs(0) * ROWS):
        r = first + tl.arange(0, ROWS)
        at = r.to(tl.int64)[:, None] * SIZE + i[None, :]
        inside = (r[:, None] < rows) & (i[None, :] < SIZE)
        dout = tl.load(dout_ptr + at, mask=inside, other=0.0).to(tl.float32)
        if TWIN:
            dout += tl.load(dtwin_ptr + at, mask=inside, other=0.0).to(tl.float32)
        x = tl.load(x_ptr + at, mask=inside, other=0.0).to(tl.float32)
        rstd = tl.load(rstd_ptr + r, mask=r < rows, other=0.0)
        unit = x * rstd[:, None]
        if GATE:
            share = tl.sigmoid(tl.load(gate_ptr + at, mask=inside, other=0.0).to(tl.float32))
            dgate = dout * unit * weight[None, :] * share * (1.0 - share)
            tl.store(dother_ptr + at, dgate.to(narrow), mask=inside)
            dout = dout * share
        dweight += tl.sum(dout * unit, 0)
        dunit = dout * weight[None, :]
        dx = (dunit - unit * (tl.sum(dunit * unit, 1) / SIZE)[:, None]) * rstd[:, None]
        if SUM:
            dx += tl.load(dsum_ptr + at, mask=inside, other=0.0).to(tl.float32)
        if ADD:
            tl.store(dother_ptr + at, (dx * beta).to(narrow), mask=inside)
            dx = dx * alpha
        tl.store(dx_ptr + at, dx.to(narrow), mask=inside)
    tl.store(dweight_ptr + tl.program_id(0) * SIZE + i, dweight, mask=i < SIZE)


def _tiling(size: int, elements: int) -> dict[str, int]:
    """Rows of a program so that it holds about `elements`, and warps for them."""
    block = triton.next_power_of_2(size)
    rows = max(1, elements // block)
    return {"SIZE": size, "BLOCK": block, "ROWS": rows, "num_warps": min(16, max(1, rows * block // 1024))}


def rms_norm_triton(x_TX: Tensor, weight_X: Tensor, eps: float) -> Tensor:
    """Without gradient, and with the same bits for a row whatever stands beside it: a program a row."""
    return _forward(x_TX, x_TX, x_TX, weight_X, eps, (1.0, 1.0), few=True, ADD=False, GATE=False)[0]


def _forward(
    x: Tensor,
    residual: Tensor,
    gate: Tensor,
    weight: Tensor,
    eps: float,
    scales: tuple[float, float],
    few: bool = False,
    **flags: bool,
) -> tuple[Tensor, Tensor]:
    rows, size = x.shape
    out, rstd = torch.empty_like(gate), torch.empty(rows, dtype=torch.float32, device=x.device)
    kernel: Any = _norm_kernel
    tiles = _tiling(size, 4096 if rows > _FEW and not few else size)
    if rows:
        grid = (triton.cdiv(rows, tiles["ROWS"]),)
        kernel[grid](x, residual, gate, weight, out, rstd, rows, *scales, eps, **tiles, **flags)
    return out, rstd


def _backward(
    douts: list[Tensor],
    dsum: Tensor | None,
    saved: tuple[Tensor, Tensor, Tensor, Tensor],
    scales: tuple[float, float] = (1.0, 1.0),
    add: bool = False,
    gate: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    x, other, weight, rstd = saved
    rows, size = x.shape
    tiles = _tiling(size, 2048)
    walkers = min(_WALKERS, max(1, triton.cdiv(rows, tiles["ROWS"])))
    dx, dother = torch.empty_like(x), torch.empty_like(x) if add or gate else x
    parts = torch.empty(walkers, size, dtype=torch.float32, device=x.device)
    flags = {"ADD": add, "TWIN": len(douts) == 2, "SUM": dsum is not None, "GATE": gate}
    grads = [dout.contiguous() for dout in (douts[0], douts[-1], x if dsum is None else dsum)]
    kernel: Any = _norm_backward_kernel
    kernel[(walkers,)](*grads, x, other, weight, rstd, dx, dother, parts, rows, *scales, **tiles, **flags)
    return dx, dother, parts.sum(0).to(weight.dtype)


def _there(like: Tensor, *grads: Tensor | None) -> list[Tensor]:
    return [grad for grad in grads if grad is not None] or [torch.zeros_like(like)]


class RMSNorm(torch.autograd.Function):
    """Twice, for two readers whose gradients meet in the backward kernel.

    Here and below, `few` has a program for each row, so that a row's bits don't depend on the number of rows.
    """

    @staticmethod
    def forward(ctx, x_TX, weight_X, eps, few=False):
        ctx.set_materialize_grads(False)
        x_TX = x_TX.contiguous()
        out_TX, rstd_T = _forward(x_TX, x_TX, x_TX, weight_X, eps, (1.0, 1.0), few, ADD=False, GATE=False)
        ctx.save_for_backward(x_TX, weight_X, rstd_T)
        return out_TX, out_TX.view_as(out_TX)

    @staticmethod
    def backward(ctx, *douts):
        x_TX, weight_X, rstd_T = ctx.saved_tensors
        dx_TX, _, dweight_X = _backward(_there(x_TX, *douts), None, (x_TX, x_TX, weight_X, rstd_T))
        return dx_TX, dweight_X, None, None


class AddRMSNorm(torch.autograd.Function):
    """The sum, and its norm twice."""

    @staticmethod
    def forward(ctx, residual_TX, update_TX, scales, weight_X, eps, few=False):
        ctx.set_materialize_grads(False)
        x_TX, update_TX = torch.empty_like(update_TX, memory_format=torch.contiguous_format), update_TX.contiguous()
        given = residual_TX.contiguous(), update_TX, weight_X
        out_TX, rstd_T = _forward(x_TX, *given, eps, scales, few, ADD=True, GATE=False)
        ctx.save_for_backward(x_TX, weight_X, rstd_T)
        ctx.scales = scales
        return x_TX, out_TX, out_TX.view_as(out_TX)

    @staticmethod
    def backward(ctx, dx_TX, *douts):
        x_TX, weight_X, rstd_T = ctx.saved_tensors
        saved = x_TX, x_TX, weight_X, rstd_T
        dresidual_TX, dupdate_TX, dweight_X = _backward(_there(x_TX, *douts), dx_TX, saved, ctx.scales, add=True)
        return dresidual_TX, dupdate_TX, None, dweight_X, None, None


class GatedRMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx, o_TX, gate_TX, weight_X, eps, few=False):
        o_TX, gate_TX = o_TX.contiguous(), gate_TX.contiguous()
        out_TX, rstd_T = _forward(o_TX, o_TX, gate_TX, weight_X, eps, (1.0, 1.0), few, ADD=False, GATE=True)
        ctx.save_for_backward(o_TX, gate_TX, weight_X, rstd_T)
        return out_TX

    @staticmethod
    def backward(ctx, dout_TX):
        do_TX, dgate_TX, dweight_X = _backward([dout_TX], None, ctx.saved_tensors, gate=True)
        return do_TX, dgate_TX, dweight_X, None, None
