"""Writing down what was drawn, in one Triton launch: tokens, counts, and which rows end."""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from lightning_cispo.kernels.decoding.columns import Columns


@triton.jit(do_not_specialize=["first", "rows", "capacity"])
def _record_kernel(
    token_ptr,
    logprob_ptr,
    whole_ptr,
    stops_ptr,
    columns_ptr,
    tokens_ptr,
    logprobs_ptr,
    code_ptr,
    slots,
    first,
    rows,
    capacity,
    width,
    confidence,
    most_confident,
    TOKEN: tl.constexpr,
    COUNT: tl.constexpr,
    LIMIT: tl.constexpr,
    CONFIDENT: tl.constexpr,
    ROWS: tl.constexpr,
):
    i = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    inside, slot = i < rows, (first + i).to(tl.int64)
    token, logprob = tl.load(token_ptr + i, mask=inside, other=-1), tl.load(logprob_ptr + i, mask=inside, other=0.0)
    count = tl.load(columns_ptr + COUNT * slots + slot, mask=inside, other=0)
    tl.store(tokens_ptr + slot * capacity + count, token.to(tl.int32), mask=inside)
    tl.store(logprobs_ptr + slot * capacity + count, logprob, mask=inside)
    tl.store(columns_ptr + TOKEN * slots + slot, token, mask=inside)
    tl.store(columns_ptr + COUNT * slots + slot, count + 1, mask=inside)
    confident = tl.load(columns_ptr + CONFIDENT * slots + slot, mask=inside, other=0) + 1
    whole = tl.load(whole_ptr + i, mask=inside, other=0.0)
    confident = tl.where(whole > confidence, confident, 0)
    tl.store(columns_ptr + CONFIDENT * slots + slot, confident, mask=inside)
    code = tl.where(count + 1 >= tl.load(columns_ptr + LIMIT * slots + slot, mask=inside, other=0), 4, 0)
    code = tl.where(confident >= most_confident, 3, code)
    for j in range(1, width):
        code = tl.where(tl.load(stops_ptr + i.to(tl.int64) * width + j, mask=inside, other=-1) == token, 2, code)
    code = tl.where(tl.load(stops_ptr + i.to(tl.int64) * width, mask=inside, other=-1) == token, 1, code)
    tl.store(code_ptr + i, code.to(tl.int64), mask=inside)


def record_triton(
    token_B: Tensor,
    logprob_B: Tensor,
    stops_BW: Tensor,
    table_CS: Tensor,
    columns: Columns,
    tokens_SL: Tensor,
    logprobs_SL: Tensor,
    first_slot: int,
    confidence: float,
    most_confident: int,
    whole_B: Tensor | None = None,
) -> Tensor:
    """Write down tokens of consecutive slots, and say which of them end: code int64 [B].

    Args:
        table_CS: int64; token, count and confident (consecutive tokens above log-probability `confidence`) are written.
        stops_BW: the token that ends a response first, then other stop ids.
        whole_B: the log-probabilities that are compared with `confidence`, where they are not those to write down.
        tokens_SL: int32, logprobs_SL: float32; written at each row's count.
    Codes: 0 goes on, 1 the first of stops_BW, 2 another of them, 3 `most_confident` reached, 4 the limit reached; the
        smallest that holds.
    """
    code_B, rows = torch.empty_like(token_B), len(token_B)
    kernel: Any = _record_kernel
    kernel[(triton.cdiv(rows, 128),)](
        token_B,
        logprob_B,
        logprob_B if whole_B is None else whole_B,
        stops_BW,
        table_CS,
        tokens_SL,
        logprobs_SL,
        code_B,
        table_CS.shape[1],
        first_slot,
        rows,
        tokens_SL.shape[1],
        stops_BW.shape[1],
        confidence,
        most_confident,
        TOKEN=columns.token,
        COUNT=columns.count,
        LIMIT=columns.limit,
        CONFIDENT=columns.confident,
        ROWS=128,
    )
    return code_B
