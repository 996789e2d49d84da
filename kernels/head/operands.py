"""Operands of the LM head's products in 16 bits, what they were scaled by, and the products that cuBLAS takes."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from lightning_cispo.kernels.head.tiles import split_kernel
from lightning_cispo.kernels.launcher import ceil_div


class Operand(NamedTuple):
    """Rows in 16 bits, below them what rounding has cut off if asked for; what they were multiplied by."""

    rows: Tensor
    scale: Tensor  # float32 scalar on the device, a power of two


def operand(x: Tensor, scale: Tensor | None, low: bool) -> Operand:
    """x itself without a scale; else x * scale in float16, with the low parts below it if asked for."""
    if scale is None:
        return Operand(x, torch.ones((), dtype=torch.float32, device=x.device))
    rows = torch.empty(len(x) * (1 + low), x.shape[1], dtype=torch.float16, device=x.device)
    kernel: Any = split_kernel
    kernel[(ceil_div(x.numel(), 4096),)](x, scale, rows, x.numel(), LOW=low, BLOCK=4096, num_warps=8)
    return Operand(rows, scale)


def power_of_two(x: Tensor) -> Tensor:
    """The power of two that brings the largest magnitude of x to [2^13, 2^14), on the device; 2^14 if all are 0."""
    exponent = torch.frexp(torch.linalg.vector_norm(x, float("inf")).float()).exponent
    return ((141 - exponent).clamp(1, 254) << 23).view(torch.float32)


def add_product(total: Tensor, a: Tensor, b: Tensor) -> None:
    """total += a @ b, with float32 sums."""
    if a.is_cuda:
        torch.addmm(total, a, b, out_dtype=torch.float32, out=total)
    else:  # Triton's interpreter
        total.addmm_(a.float(), b.float())


def product(out: Tensor, a: Tensor, b: Tensor, divisor: Tensor | None) -> None:
    """out = a @ b / divisor, with float32 sums."""
    if divisor is None and out.is_cuda:
        torch.mm(a, b, out=out)
        return
    wide = out if out.dtype == torch.float32 else torch.empty_like(out, dtype=torch.float32)
    if a.is_cuda:
        torch.mm(a, b, out_dtype=torch.float32, out=wide)
    else:
        torch.mm(a.float(), b.float(), out=wide)
    torch.div(wide, 1 if divisor is None else divisor, out=out)
