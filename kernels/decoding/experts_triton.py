"""Experts of a decoding step in Triton: each program streams one expert's weights for the rows that chose it.

Nothing is sorted: whoever routes puts each choice on its expert's roster, in no order (a row's sums don't depend on its
place), rows are gathered by number, and results go where their choice stands.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from lightning_cispo.kernels.decoding.linear_triton import Tiles, begin, fetch_ahead, launch, lines


@dataclass(frozen=True)
class Roster:
    """Which choices are whose: `list_EB` int32 [E, B], of which expert e has the first `count_E[e]`; int32."""

    count_E: Tensor  # 0 before rows are routed
    list_EB: Tensor

    @staticmethod
    def empty(layers: int, experts: int, rows: int, device: torch.device) -> tuple[Tensor, list[Roster]]:
        """Counts [layers, E], to be set to 0 before each step, and the rosters of the layers; they share one list."""
        count_LE = torch.zeros(layers, experts, dtype=torch.int32, device=device)
        list_EB = torch.zeros(experts, rows, dtype=torch.int32, device=device)
        return count_LE, [Roster(count_E, list_EB) for count_E in count_LE]


@triton.jit
def enlist(count_ptr, list_ptr, width, expert, choice, wanted):
    """Put a choice on its expert's roster."""
    place = tl.atomic_add(count_ptr + expert, 1, mask=wanted, sem="relaxed")
    tl.store(list_ptr + expert * width + place, choice, mask=wanted)


@triton.jit(do_not_specialize=["width"])
def _gate_up_kernel(
    x_ptr,
    count_ptr,
    list_ptr,
    weight_ptr,
    share_ptr,
    out_ptr,
    width,
    TOP_K: tl.constexpr,
    X: tl.constexpr,
    I: tl.constexpr,  # noqa: E741
    BN: tl.constexpr,
    BK: tl.constexpr,
    BR: tl.constexpr,
    SHARED: tl.constexpr,
    AHEAD: tl.constexpr,
    PDL: tl.constexpr,
):
    """silu(gate x) * up x of one expert's rows, for one tile of the inner width.

    SHARED: times the choice's share, as `kernels.experts.swiglu_triton` has it.
    """
    tiles: tl.constexpr = (I + BN - 1) // BN
    expert, tile = tl.program_id(0) // tiles, tl.program_id(0) % tiles
    n, k = tile * BN + tl.arange(0, BN), tl.arange(0, BK)
    rows_at = weight_ptr + expert.to(tl.int64) * (2 * I * X) + tl.minimum(n, I - 1) * X
    fetch_ahead(rows_at, 2, AHEAD)
    fetch_ahead(rows_at + I * X, 2, AHEAD)
    begin(PDL)
    gate_at, count = rows_at[:, None] + k[None, :], tl.load(count_ptr + expert)
    for first in range(0, count, BR):
        own = first + tl.arange(0, BR) < count
        choice = tl.load(list_ptr + expert * width + first + tl.arange(0, BR), mask=own, other=0)
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
        if SHARED:
            hidden *= tl.load(share_ptr + choice, mask=own, other=0.0)[None, :]
        tl.store(
            out_ptr + choice[None, :] * I + n[:, None],
            hidden.to(out_ptr.dtype.element_ty),
            mask=(n < I)[:, None] & own[None, :],
        )


@triton.jit(do_not_specialize=["width"])
def _down_kernel(
    hidden_ptr,
    count_ptr,
    list_ptr,
    weight_ptr,
    out_ptr,
    width,
    X: tl.constexpr,
    I: tl.constexpr,  # noqa: E741
    BN: tl.constexpr,
    BK: tl.constexpr,
    BR: tl.constexpr,
    AHEAD: tl.constexpr,
    PDL: tl.constexpr,
):
    """down(hidden) of one expert's rows, for one tile of the outer width."""
    tiles: tl.constexpr = (X + BN - 1) // BN
    expert, tile = tl.program_id(0) // tiles, tl.program_id(0) % tiles
    n, k = tile * BN + tl.arange(0, BN), tl.arange(0, BK)
    rows_at = weight_ptr + expert.to(tl.int64) * (X * I) + tl.minimum(n, X - 1) * I
    fetch_ahead(rows_at, 2, AHEAD)
    begin(PDL)
    w_at, count = rows_at[:, None] + k[None, :], tl.load(count_ptr + expert)
    for first in range(0, count, BR):
        own = first + tl.arange(0, BR) < count
        choice = tl.load(list_ptr + expert * width + first + tl.arange(0, BR), mask=own, other=0)
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
        tl.store(out_ptr + choice[None, :] * X + n[:, None], acc.to(out_ptr.dtype.element_ty), mask=there)


def decode_experts(
    x_BX: Tensor,
    top_k: int,
    roster: Roster,
    gate_up_EJX: Tensor,
    down_EXI: Tensor,
    hidden_NI: Tensor,
    out_NX: Tensor,
    tiles: tuple[Tiles, Tiles],
    share_BK: Tensor | None = None,
    pdl: bool = False,
) -> None:
    """What each choice's expert makes of its row; nothing is written for choices on no roster.

    Args:
        x_BX: [B, X], each with `top_k` choices; gate_up_EJX: [E, 2 I, X], down_EXI: [E, X, I], of x's dtype.
        hidden_NI, out_NX: [B * top_k, I] in x's dtype and [B * top_k, X], written.
        tiles: of the two products.
        share_BK: float32; with it the choices' results are to be summed as they are: each has its share in it.
    """
    experts, width, inner = down_EXI.shape
    gate_up, down = tiles
    lists = roster.count_E, roster.list_EB
    kernel: Any = _gate_up_kernel
    kernel[(experts * triton.cdiv(inner, gate_up.outputs),)](
        x_BX,
        *lists,
        gate_up_EJX,
        gate_up_EJX if share_BK is None else share_BK,
        hidden_NI,
        roster.list_EB.shape[1],
        TOP_K=top_k,
        X=width,
        I=inner,
        BN=gate_up.outputs,
        BK=gate_up.inputs,
        BR=gate_up.rows,
        SHARED=share_BK is not None,
        AHEAD=lines(gate_up_EJX, width, 4),
        PDL=pdl,
        num_warps=gate_up.warps,
        num_stages=gate_up.stages,
        **launch(pdl),
    )
    kernel = _down_kernel
    kernel[(experts * triton.cdiv(width, down.outputs),)](
        hidden_NI,
        *lists,
        down_EXI,
        out_NX,
        roster.list_EB.shape[1],
        X=width,
        I=inner,
        BN=down.outputs,
        BK=down.inputs,
        BR=down.rows,
        AHEAD=lines(down_EXI, inner, 8),
        PDL=pdl,
        num_warps=down.warps,
        num_stages=down.stages,
        **launch(pdl),
    )
