"""What a decoding step of the exact mode does by row, in few launches, each the learner's own arithmetic."""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl
from torch import Tensor

from lightning_cispo.kernels.decoding.experts_triton import Roster, enlist
from lightning_cispo.kernels.decoding.linear_triton import begin, fetch_ahead, launch, lines
from lightning_cispo.kernels.exact.linear_triton import in_parts
from lightning_cispo.kernels.exact.rows_triton import choose
from lightning_cispo.kernels.norm.launch import tiling
from lightning_cispo.kernels.norm.rows import norm_rows

_ROWS = 16  # that one program routes
_ROUTER_DEPTH, _ROUTER_WARPS, _ROUTER_STAGES = 128, 2, 3


@triton.jit
def _learners_norm(
    x_ptr,
    residual_ptr,
    other_ptr,
    weight_ptr,
    out_ptr,
    rstd_ptr,
    rows,
    alpha,
    beta,
    eps,
    SIZE: tl.constexpr,
    BLOCK: tl.constexpr,
    ADD: tl.constexpr,
    GATE: tl.constexpr,
):
    """A row's, by the code that the learner runs, with one program a row; nothing is kept."""
    norm_rows(
        x_ptr,
        residual_ptr,
        other_ptr,
        weight_ptr,
        out_ptr,
        out_ptr,
        rstd_ptr,
        rows,
        alpha,
        beta,
        eps,
        SIZE,
        BLOCK,
        1,
        ADD,
        GATE,
        False,
        False,
    )


@triton.jit
def _enter_kernel(
    token_ptr,
    embedding_ptr,
    count_ptr,
    counts,
    x_ptr,
    weight_ptr,
    out_ptr,
    rstd_ptr,
    rows,
    eps,
    SIZE: tl.constexpr,
    BLOCK: tl.constexpr,
    PDL: tl.constexpr,
):
    row, i = tl.program_id(0), tl.arange(0, BLOCK)
    begin(PDL)
    for first in range(row * BLOCK, counts, tl.num_programs(0) * BLOCK):
        tl.store(count_ptr + first + i, tl.zeros([BLOCK], tl.int32), mask=first + i < counts)
    token = tl.load(token_ptr + row).to(tl.int64)
    x = tl.load(embedding_ptr + token * SIZE + i, mask=i < SIZE, other=0.0)
    tl.store(x_ptr + row * SIZE + i, x.to(x_ptr.dtype.element_ty), mask=i < SIZE)
    tl.debug_barrier()
    _learners_norm(x_ptr, x_ptr, x_ptr, weight_ptr, out_ptr, rstd_ptr, rows, 1.0, 1.0, eps, SIZE, BLOCK, False, False)


@triton.jit
def _combine_kernel(
    parts_ptr,
    choice_ptr,
    residual_ptr,
    x_ptr,
    weight_ptr,
    out_ptr,
    rstd_ptr,
    rows,
    alpha,
    beta,
    eps,
    TOP_K: tl.constexpr,
    SIZE: tl.constexpr,
    BLOCK: tl.constexpr,
    PDL: tl.constexpr,
):
    """The sum over a row's experts and the residual, each rounded, then the next norm."""
    row, i = tl.program_id(0), tl.arange(0, BLOCK)
    begin(PDL)
    narrow = x_ptr.dtype.element_ty
    total = tl.zeros([BLOCK], tl.float32)
    for k in tl.static_range(TOP_K):
        number = row * TOP_K + k
        there = (i < SIZE) & (tl.load(choice_ptr + number) >= 0)
        part = tl.load(parts_ptr + number.to(tl.int64) * SIZE + i, mask=there, other=0.0)
        total += part.to(tl.float32)
    update = (total.to(narrow).to(tl.float32) * beta).to(narrow).to(tl.float32)
    residual = tl.load(residual_ptr + row * SIZE + i, mask=i < SIZE, other=0.0).to(tl.float32)
    tl.store(x_ptr + row * SIZE + i, tl.fma(residual, alpha, update).to(narrow), mask=i < SIZE)
    tl.debug_barrier()
    _learners_norm(x_ptr, x_ptr, x_ptr, weight_ptr, out_ptr, rstd_ptr, rows, 1.0, 1.0, eps, SIZE, BLOCK, False, False)


@triton.jit
def _norm_after_kernel(
    x_ptr,
    residual_ptr,
    other_ptr,
    weight_ptr,
    out_ptr,
    rstd_ptr,
    rows,
    alpha,
    beta,
    eps,
    SIZE: tl.constexpr,
    BLOCK: tl.constexpr,
    ADD: tl.constexpr,
    PDL: tl.constexpr,
):
    """ADD: the norm of residual and update (`other_ptr`), their sum into x; else that of x, under a sigmoid gate."""
    begin(PDL)
    _learners_norm(
        x_ptr,
        residual_ptr,
        other_ptr,
        weight_ptr,
        out_ptr,
        rstd_ptr,
        rows,
        alpha,
        beta,
        eps,
        SIZE,
        BLOCK,
        ADD,
        not ADD,
    )


@triton.jit(do_not_specialize=["rows", "width"])
def _router_kernel(
    x_ptr,
    router_ptr,
    position_ptr,
    choice_ptr,
    share_ptr,
    count_ptr,
    list_ptr,
    rows,
    width,
    X: tl.constexpr,
    E: tl.constexpr,
    TOP_K: tl.constexpr,
    EXPERTS: tl.constexpr,
    CHOICES: tl.constexpr,
    ROWS: tl.constexpr,
    DEPTH: tl.constexpr,
    SPLIT: tl.constexpr,
    AHEAD: tl.constexpr,
    PDL: tl.constexpr,
):
    """Logits of ROWS rows as the learner's product has them, and the experts these choose, onto the roster."""
    t, e, k = tl.program_id(0) * ROWS + tl.arange(0, ROWS), tl.arange(0, EXPERTS), tl.arange(0, DEPTH)
    logits = tl.zeros([ROWS, EXPERTS], tl.float32)
    low, middle = logits, logits
    fetch_ahead(router_ptr + tl.minimum(e, E - 1) * X, 4, AHEAD)
    begin(PDL)
    for done in range(0, X, DEPTH):
        inside = done + k < X
        x_mask, w_mask = (t < rows)[:, None] & inside[None, :], (e < E)[None, :] & inside[:, None]
        x = tl.load(x_ptr + t[:, None] * X + done + k[None, :], mask=x_mask, other=0.0)
        w = tl.load(router_ptr + e[None, :] * X + done + k[:, None], mask=w_mask, other=0.0)
        if SPLIT:
            low, middle, logits = in_parts(x, w, low, middle, logits)
        else:
            logits = tl.dot(x, w, logits, input_precision="ieee")
    if SPLIT:
        logits += low + middle
    c = tl.arange(0, CHOICES)
    logits = tl.where((e < E)[None, :], logits, float("-inf"))
    experts, shares = choose(logits, choice_ptr, t, t < rows, E, TOP_K, EXPERTS, CHOICES, ROWS, False)
    position = tl.load(position_ptr + t, mask=t < rows, other=0)
    number = t[:, None] * TOP_K + c[None, :]
    there = (t < rows)[:, None] & (c < TOP_K)[None, :]
    runs = there & (position > 0)[:, None]
    tl.store(choice_ptr + number, tl.where(runs, experts, -1), mask=there)
    tl.store(share_ptr + number, shares, mask=there)
    enlist(count_ptr, list_ptr, width, experts, number, runs)


def _tiles(size: int) -> dict[str, int]:
    """As the learner's where it has a program for each row."""
    return {name: number for name, number in tiling(size, size).items() if name != "ROWS"}


def enter(
    token_B: Tensor, embedding_VX: Tensor, count_LE: Tensor, x_BX: Tensor, norm: Any, out_BX: Tensor, rstd_B: Tensor
) -> None:
    """Embeddings and their norm; the rosters' counts are set to 0. The first of a chain: it never begins early."""
    kernel: Any = _enter_kernel
    rows, size = x_BX.shape
    given = token_B, embedding_VX, count_LE, count_LE.numel(), x_BX, norm.weight, out_BX, rstd_B
    kernel[(rows,)](*given, rows, norm.eps, PDL=x_BX.is_cuda, **_tiles(size))


def combine(
    parts_NX: Tensor,
    choice_BK: Tensor,
    residual_BX: Tensor,
    scales: tuple[float, float],
    x_BX: Tensor,
    norm: Any,
    out_BX: Tensor,
    rstd_B: Tensor,
    pdl: bool,
) -> None:
    """x: the sum of what a row's experts gave, and the residual; out: x's norm."""
    kernel: Any = _combine_kernel
    rows, size = x_BX.shape
    given = parts_NX, choice_BK, residual_BX, x_BX, norm.weight, out_BX, rstd_B, rows
    kernel[(rows,)](*given, *scales, norm.eps, TOP_K=choice_BK.shape[1], PDL=pdl, **_tiles(size), **launch(pdl))


def norm_after(
    x_BX: Tensor,
    residual_BX: Tensor,
    other_BX: Tensor,
    scales: tuple[float, float],
    norm: Any,
    out_BX: Tensor,
    rstd_B: Tensor,
    add: bool,
    pdl: bool,
) -> None:
    """add: x becomes the sum of residual and update, out its norm; else out is x's norm under the gate `other`."""
    kernel: Any = _norm_after_kernel
    rows, size = x_BX.shape
    given = x_BX, residual_BX, other_BX, norm.weight, out_BX, rstd_B, rows
    kernel[(rows,)](*given, *scales, norm.eps, ADD=add, PDL=pdl, **_tiles(size), **launch(pdl))


def route(
    x_BX: Tensor,
    router_EX: Tensor,
    position_B: Tensor,
    choice_BK: Tensor,
    share_BK: Tensor,
    roster: Roster,
    pdl: bool,
) -> None:
    """Each row's experts, int32 (-1 at position 0), and their shares; onto the roster, whose counts are 0."""
    kernel: Any = _router_kernel
    (rows, size), experts, top_k = x_BX.shape, len(router_EX), choice_BK.shape[1]
    split = router_EX.dtype != x_BX.dtype
    kernel[(triton.cdiv(rows, _ROWS),)](
        x_BX,
        router_EX,
        position_B,
        choice_BK,
        share_BK,
        roster.count_E,
        roster.list_EB,
        rows,
        roster.list_EB.shape[1],
        X=size,
        E=experts,
        TOP_K=top_k,
        EXPERTS=max(16, triton.next_power_of_2(experts)),
        CHOICES=triton.next_power_of_2(top_k),
        ROWS=_ROWS,
        DEPTH=min(_ROUTER_DEPTH, max(16, triton.next_power_of_2(size))),
        SPLIT=split,
        AHEAD=lines(router_EX, size, 32),
        PDL=pdl,
        num_warps=_ROUTER_WARPS,
        num_stages=_ROUTER_STAGES,
        **launch(pdl),
    )
