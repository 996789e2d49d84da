"""Stop strings in one Triton launch: rows take their tokens' bytes side by side, one after the other."""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl
from torch import Tensor

from lightning_cispo.kernels.decoding.columns import Columns
from lightning_cispo.kernels.decoding.stops import STOPPED, Matcher
from lightning_cispo.kernels.launcher import ceil_div

_ROWS = 32


@triton.jit(do_not_specialize=["slots", "first", "rows"])
def _stops_kernel(
    bytes_ptr,
    starts_ptr,
    next_ptr,
    columns_ptr,
    code_ptr,
    slots,
    first,
    rows,
    TOKEN: tl.constexpr,
    COUNT: tl.constexpr,
    LEAST: tl.constexpr,
    STATE: tl.constexpr,
    STOPPED: tl.constexpr,
    ROWS: tl.constexpr,
):
    i = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    inside, slot = i < rows, (first + i).to(tl.int64)
    state = tl.load(columns_ptr + STATE * slots + slot, mask=inside, other=0)
    matched = state > 0
    token = tl.load(columns_ptr + TOKEN * slots + slot, mask=matched, other=0)
    start = tl.load(starts_ptr + token, mask=matched, other=0)
    length = tl.load(starts_ptr + token + 1, mask=matched, other=0) - start
    hit = tl.zeros([ROWS], tl.int1)
    for j in range(0, tl.max(length, 0)):
        there = j < length
        byte = tl.load(bytes_ptr + start + j, mask=there, other=0)
        entry = tl.load(next_ptr + state * 256 + byte, mask=there, other=0)
        hit = hit | (entry < 0)
        state = tl.where(there, tl.where(entry < 0, ~entry, entry).to(tl.int64), state)
    tl.store(columns_ptr + STATE * slots + slot, state, mask=matched)
    count = tl.load(columns_ptr + COUNT * slots + slot, mask=matched, other=0)
    hit = hit & (count > tl.load(columns_ptr + LEAST * slots + slot, mask=matched, other=0))
    code = tl.load(code_ptr + i, mask=inside, other=0)
    tl.store(code_ptr + i, tl.full(code.shape, STOPPED, tl.int64), mask=hit & (code != 1))


def match_triton(matcher: Matcher, code_B: Tensor, table_CS: Tensor, columns: Columns, first_slot: int) -> None:
    """`kernels.decoding.stops.match_stops` on the device."""
    rows, kernel = len(code_B), _stops_kernel
    launch: Any = kernel[(ceil_div(rows, _ROWS),)]
    launch(
        matcher.bytes_N,
        matcher.starts_V,
        matcher.next_SB,
        table_CS,
        code_B,
        table_CS.shape[1],
        first_slot,
        rows,
        TOKEN=columns.token,
        COUNT=columns.count,
        LEAST=columns.min_tokens,
        STATE=columns.stop_state,
        STOPPED=STOPPED,
        ROWS=_ROWS,
        num_warps=1,
    )
