"""The device side of `kernels.norm.launch`: a program takes a few whole rows at a time."""

from __future__ import annotations

import triton
import triton.language as tl

from lightning_cispo.kernels.launcher import launched


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


norm_kernel = launched(norm_rows)  # which kernels of decoding call, too


@launched
@triton.jit
def norm_backward_kernel(
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


@launched
@triton.jit
def sum_kernel(a_ptr, b_ptr, out_ptr, numbers, alpha, beta, BLOCK: tl.constexpr, BACKWARD: tl.constexpr):
    """alpha a + beta b; BACKWARD: out's gradient (b) to a's and, in `out_ptr`, the other's."""
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    b = tl.load(b_ptr + at, mask=at < numbers, other=0.0).to(tl.float32)
    if BACKWARD:
        tl.store(a_ptr + at, b * alpha, mask=at < numbers)
        out = b * beta
    else:
        a = tl.load(a_ptr + at, mask=at < numbers, other=0.0).to(tl.float32)
        # Left to the compiler, which product is fused depends on where in a block a number lies.
        out = tl.fma(a, tl.zeros_like(a) + alpha, b * beta)
    tl.store(out_ptr + at, out.to(out_ptr.dtype.element_ty), mask=at < numbers)
