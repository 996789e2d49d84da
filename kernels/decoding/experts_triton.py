"""Experts of a decoding step in Triton: each program finds the rows that chose its expert, and streams its weights.

Nothing is sorted: rows are gathered by number and results go where their choice stands, so that two kernels and a sum
are all there is.
"""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl
from torch import Tensor

from kernels.decoding.linear_triton import Tiles, begin, fetch_ahead, launch, lines


@triton.jit
def _choices_of(choice_ptr, expert, first, count, BR: tl.constexpr, CHUNK: tl.constexpr):
    """Numbers of the choices of `expert` from its `first` one on [BR], and how many it has in all."""
    j = first + tl.arange(0, BR)
    found, seen = tl.zeros([BR], tl.int32), 0
    for start in range(0, count, CHUNK):
        i = start + tl.arange(0, CHUNK)
        match = (tl.load(choice_ptr + i, mask=i < count, other=-1) == expert).to(tl.int32)
        place = tl.cumsum(match, 0) - match + seen
        found += tl.sum(tl.where((match[:, None] > 0) & (place[:, None] == j[None, :]), i[:, None], 0), 0)
        seen += tl.sum(match, 0)
    return found, seen


@triton.jit(do_not_specialize=["count"])
def _gate_up_kernel(
    x_ptr,
    choice_ptr,
    weight_ptr,
    out_ptr,
    count,
    TOP_K: tl.constexpr,
    X: tl.constexpr,
    I: tl.constexpr,  # noqa: E741
    CHUNK: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
    BR: tl.constexpr,
    AHEAD: tl.constexpr,
    PDL: tl.constexpr,
):
    """silu(gate x) * up x of one expert's next BR rows, for one tile of the inner width."""
    tiles: tl.constexpr = (I + BN - 1) // BN
    expert, tile, first = tl.program_id(1) // tiles, tl.program_id(1) % tiles, tl.program_id(0) * BR
    n, k = tile * BN + tl.arange(0, BN), tl.arange(0, BK)
    rows_at = weight_ptr + expert.to(tl.int64) * (2 * I * X) + tl.minimum(n, I - 1) * X
    if first == 0:
        fetch_ahead(rows_at, 2, AHEAD)
        fetch_ahead(rows_at + I * X, 2, AHEAD)
    begin(PDL)
    choice, seen = _choices_of(choice_ptr, expert, first, count, BR, CHUNK)
    if first >= seen:
        return
    gate_at, own = rows_at[:, None] + k[None, :], first + tl.arange(0, BR) < seen
    x_at = x_ptr + (choice // TOP_K)[:, None] * X + k[None, :]
    gate, up = tl.zeros([BN, BR], tl.float32), tl.zeros([BN, BR], tl.float32)
    for done in range(0, X, BK):
        if X % BK == 0:
            g, u = tl.load(gate_at + done), tl.load(gate_at + I * X + done)
            x = tl.load(x_at + done, mask=own[:, None], other=0.0)
        else:
            inside = (done + k < X)[None, :]
            g = tl.load(gate_at + done, mask=inside, other=0.0)
            u = tl.load(gate_at + I * X + done, mask=inside, other=0.0)
            x = tl.load(x_at + done, mask=inside & own[:, None], other=0.0)
        gate = tl.dot(g, tl.trans(x), gate, input_precision="ieee")
        up = tl.dot(u, tl.trans(x), up, input_precision="ieee")
    hidden = gate * tl.sigmoid(gate) * up
    there = (n < I)[:, None] & own[None, :]
    tl.store(out_ptr + choice[None, :] * I + n[:, None], hidden.to(out_ptr.dtype.element_ty), mask=there)


@triton.jit(do_not_specialize=["count"])
def _down_kernel(
    hidden_ptr,
    choice_ptr,
    weight_ptr,
    out_ptr,
    count,
    X: tl.constexpr,
    I: tl.constexpr,  # noqa: E741
    CHUNK: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
    BR: tl.constexpr,
    AHEAD: tl.constexpr,
    PDL: tl.constexpr,
):
    """down(hidden) of one expert's next BR rows, for one tile of the outer width."""
    tiles: tl.constexpr = (X + BN - 1) // BN
    expert, tile, first = tl.program_id(1) // tiles, tl.program_id(1) % tiles, tl.program_id(0) * BR
    n, k = tile * BN + tl.arange(0, BN), tl.arange(0, BK)
    rows_at = weight_ptr + expert.to(tl.int64) * (X * I) + tl.minimum(n, X - 1) * I
    if first == 0:
        fetch_ahead(rows_at, 2, AHEAD)
    begin(PDL)
    choice, seen = _choices_of(choice_ptr, expert, first, count, BR, CHUNK)
    if first >= seen:
        return
    w_at, own = rows_at[:, None] + k[None, :], first + tl.arange(0, BR) < seen
    x_at = hidden_ptr + choice[:, None] * I + k[None, :]
    acc = tl.zeros([BN, BR], tl.float32)
    for done in range(0, I, BK):
        if I % BK == 0:
            w, x = tl.load(w_at + done), tl.load(x_at + done, mask=own[:, None], other=0.0)
        else:
            inside = (done + k < I)[None, :]
            w = tl.load(w_at + done, mask=inside, other=0.0)
            x = tl.load(x_at + done, mask=inside & own[:, None], other=0.0)
        acc = tl.dot(w, tl.trans(x), acc, input_precision="ieee")
    there = (n < X)[:, None] & own[None, :]
    tl.store(out_ptr + choice[None, :] * X + n[:, None], acc, mask=there)


def decode_experts(
    x_BX: Tensor,
    choice_BK: Tensor,
    gate_up_EJX: Tensor,
    down_EXI: Tensor,
    hidden_NI: Tensor,
    out_NX: Tensor,
    tiles: tuple[Tiles, Tiles],
    pdl: bool = False,
) -> None:
    """What each choice's expert makes of its row; nothing is written for choices below 0.

    Args:
        x_BX: [B, X]; choice_BK: int32 [B, K]; gate_up_EJX: [E, 2 I, X], down_EXI: [E, X, I], of x's dtype.
        hidden_NI, out_NX: [B * K, I] in x's dtype and float32 [B * K, X], written.
        tiles: of the two products.
    """
    count, (experts, width, inner) = choice_BK.numel(), down_EXI.shape
    most = len(x_BX)  # rows that one expert may have
    chunk = min(256, max(16, triton.next_power_of_2(count)))
    gate_up, down = tiles
    kernel: Any = _gate_up_kernel
    kernel[(triton.cdiv(most, gate_up.rows), experts * triton.cdiv(inner, gate_up.outputs))](
        x_BX,
        choice_BK,
        gate_up_EJX,
        hidden_NI,
        count,
        TOP_K=choice_BK.shape[1],
        X=width,
        I=inner,
        CHUNK=chunk,
        BN=gate_up.outputs,
        BK=gate_up.inputs,
        BR=gate_up.rows,
        AHEAD=lines(gate_up_EJX, width, 4),
        PDL=pdl,
        num_warps=gate_up.warps,
        num_stages=gate_up.stages,
        **launch(pdl),
    )
    kernel = _down_kernel
    kernel[(triton.cdiv(most, down.rows), experts * triton.cdiv(width, down.outputs))](
        hidden_NI,
        choice_BK,
        down_EXI,
        out_NX,
        count,
        X=width,
        I=inner,
        CHUNK=chunk,
        BN=down.outputs,
        BK=down.inputs,
        BR=down.rows,
        AHEAD=lines(down_EXI, inner, 8),
        PDL=pdl,
        num_warps=down.warps,
        num_stages=down.stages,
        **launch(pdl),
    )
