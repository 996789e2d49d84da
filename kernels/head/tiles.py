"""The device side of `kernels.head.launch`: tiles of logits that never leave the chip as such."""

from __future__ import annotations

import triton
import triton.language as tl

from lightning_cispo.kernels.launcher import launched

LOG2E = tl.constexpr(1.4426950408889634)


@triton.jit
def _place(tile, row_blocks, column_blocks, GROUP: tl.constexpr):
    """Row and column of a tile: GROUP rows of tiles at a time, so that tiles side by side in time share operands."""
    width = GROUP * column_blocks
    first = (tile // width) * GROUP
    rows = tl.minimum(row_blocks - first, GROUP)
    inside = tile % width
    return first + inside % rows, inside // rows


@triton.jit
def _partial(
    x,
    column,
    vocabulary,
    row,
    targets,
    tokens,
    part,
    picked_ptr,
    max_ptr,
    sum_ptr,
    dot_ptr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """Of logits x: each row's maximum, sum of exp(x - maximum), sum of x exp(x - maximum), and the target's."""
    rows, columns = row + tl.arange(0, ROWS), column + tl.arange(0, COLUMNS)
    if column + COLUMNS > vocabulary:
        x = tl.where(columns[None, :] < vocabulary, x, -1e30)
    top = tl.max(x, 1)
    e = tl.exp2(x * LOG2E - (top * LOG2E)[:, None])
    at = part.to(tl.int64) * tokens + rows
    tl.store(max_ptr + at, top, mask=rows < tokens)
    tl.store(sum_ptr + at, tl.sum(e, 1), mask=rows < tokens)
    tl.store(dot_ptr + at, tl.sum(e * x, 1), mask=rows < tokens)
    here = (targets >= column) & (targets < tl.minimum(column + COLUMNS, vocabulary))
    if tl.max(here.to(tl.int32)) > 0:
        picked = tl.sum(tl.where(columns[None, :] == targets[:, None], x, 0.0), 1)
        tl.store(picked_ptr + rows, picked, mask=here & (rows < tokens))


@launched
@triton.jit(do_not_specialize=["tokens", "vocabulary", "first_column"])
def statistics_kernel(
    hidden_desc,
    weight_desc,
    targets_ptr,
    scale_ptr,
    picked_ptr,
    max_ptr,
    sum_ptr,
    dot_ptr,
    tokens,
    vocabulary,
    first_column,
    X: tl.constexpr,
    PARTS: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    DEPTH: tl.constexpr,
    GROUP: tl.constexpr,
):
    """Partial sums over 2 * COLUMNS of the `vocabulary` columns given, ROWS tokens.

    With two PARTS the weight is a sum: rows of high parts, `vocabulary` rows below them the low parts.

    A tensor core rounds every sum towards zero: over a thousand terms that shows. Each product over DEPTH is summed
    afresh and added, rounded to nearest, to the logits; half the columns at a time leaves registers for that.
    """
    row_blocks, column_blocks = tl.cdiv(tokens, ROWS), tl.cdiv(vocabulary, 2 * COLUMNS)
    row_block, column_block = _place(tl.program_id(0), row_blocks, column_blocks, GROUP)
    row, column = row_block * ROWS, column_block * 2 * COLUMNS
    scale = tl.load(scale_ptr)
    left = tl.zeros([ROWS, COLUMNS], tl.float32)
    right = tl.zeros([ROWS, COLUMNS], tl.float32)
    if PARTS == 2:  # the low parts: so small that the rounding of their sums is nothing
        low = column + vocabulary
        for k in range(0, X, DEPTH):
            h = hidden_desc.load([row, k])
            left = tl.dot(h, weight_desc.load([low, k]).T, left)
            right = tl.dot(h, weight_desc.load([low + COLUMNS, k]).T, right)
        left *= scale
        right *= scale
    for k in range(0, X, DEPTH):
        h = hidden_desc.load([row, k])
        left += tl.dot(h, weight_desc.load([column, k]).T) * scale
        right += tl.dot(h, weight_desc.load([column + COLUMNS, k]).T) * scale
    rows = row + tl.arange(0, ROWS)
    targets = tl.load(targets_ptr + rows, mask=rows < tokens, other=-1) - first_column
    part = 2 * column_block
    for half in tl.static_range(2):
        if column + half * COLUMNS < vocabulary:
            _partial(
                left if half == 0 else right,
                column + half * COLUMNS,
                vocabulary,
                row,
                targets,
                tokens,
                part + half,
                picked_ptr,
                max_ptr,
                sum_ptr,
                dot_ptr,
                ROWS,
                COLUMNS,
            )


@launched
@triton.jit(do_not_specialize=["tokens", "parts"])
def join_kernel(
    picked_ptr,
    max_ptr,
    sum_ptr,
    dot_ptr,
    state_ptr,
    logprob_ptr,
    lse_ptr,
    entropy_ptr,
    tokens,
    parts,
    ROWS: tl.constexpr,
    PARTS: tl.constexpr,
):
    """Partial sums [parts, T] added to the state [3, T], in a fixed order, and what the columns so far amount to."""
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    inside = rows < tokens
    top = tl.load(state_ptr + rows, mask=inside, other=0.0)
    total = tl.load(state_ptr + tokens + rows, mask=inside, other=1.0)
    dot = tl.load(state_ptr + 2 * tokens + rows, mask=inside, other=0.0)
    for first in range(0, parts, PARTS):
        part = first + tl.arange(0, PARTS)
        at = part[:, None].to(tl.int64) * tokens + rows[None, :]
        mask = (part[:, None] < parts) & inside[None, :]
        tops = tl.load(max_ptr + at, mask=mask, other=-1e30)
        new = tl.maximum(top, tl.max(tops, 0))
        share = tl.where(mask, tl.exp(tops - new[None, :]), 0.0)
        kept = tl.exp(top - new)
        total = total * kept + tl.sum(tl.load(sum_ptr + at, mask=mask, other=0.0) * share, 0)
        dot = dot * kept + tl.sum(tl.load(dot_ptr + at, mask=mask, other=0.0) * share, 0)
        top = new
    lse = top + tl.log(total)
    tl.store(state_ptr + rows, top, mask=inside)
    tl.store(state_ptr + tokens + rows, total, mask=inside)
    tl.store(state_ptr + 2 * tokens + rows, dot, mask=inside)
    tl.store(lse_ptr + rows, lse, mask=inside)
    tl.store(entropy_ptr + rows, lse - dot / total, mask=inside)
    tl.store(logprob_ptr + rows, tl.load(picked_ptr + rows, mask=inside, other=0.0) - lse, mask=inside)


@launched
@triton.jit(do_not_specialize=["tokens", "vocabulary", "first_column"])
def gradient_kernel(
    hidden_desc,
    weight_desc,
    out_desc,
    targets_ptr,
    scale_ptr,
    logprob_ptr,
    lse_ptr,
    entropy_ptr,
    factor_ptr,
    entropy_factor_ptr,
    tokens,
    vocabulary,
    first_column,
    X: tl.constexpr,
    ENTROPY: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    DEPTH: tl.constexpr,
    GROUP: tl.constexpr,
):
    """Of a tile of logits, formed again: factor (onehot - p) - entropy factor * p (log p + entropy)."""
    row_blocks, column_blocks = tl.cdiv(tokens, ROWS), tl.cdiv(vocabulary, COLUMNS)
    scale = tl.load(scale_ptr) * LOG2E
    # One loop over tiles and depth together: the next tile's operands are on their way while this one is written.
    for tile in tl.range(tl.program_id(0), row_blocks * column_blocks, tl.num_programs(0), flatten=True):
        row_block, column_block = _place(tile, row_blocks, column_blocks, GROUP)
        row, column = row_block * ROWS, column_block * COLUMNS
        logits = tl.zeros([ROWS, COLUMNS], tl.float32)
        for k in range(0, X, DEPTH):
            logits = tl.dot(hidden_desc.load([row, k]), weight_desc.load([column, k]).T, logits)
        rows, columns = row + tl.arange(0, ROWS), column + tl.arange(0, COLUMNS)
        inside = rows < tokens
        lse = tl.load(lse_ptr + rows, mask=inside, other=0.0) * LOG2E
        factor = tl.load(factor_ptr + rows, mask=inside, other=0.0)
        targets = tl.load(targets_ptr + rows, mask=inside, other=-1) - first_column
        logp = logits * scale - lse[:, None]  # to base 2
        p = tl.exp2(logp)
        # 1 - p from the log-probability itself: where it is near 0 the logits here are not exact enough.
        rest = factor * (1 - tl.exp(tl.load(logprob_ptr + rows, mask=inside, other=0.0)))
        grad = tl.where(columns[None, :] == targets[:, None], rest[:, None], -p * factor[:, None])
        if ENTROPY:
            by = tl.load(entropy_factor_ptr + rows, mask=inside, other=0.0)
            entropy = tl.load(entropy_ptr + rows, mask=inside, other=0.0)
            grad -= p * by[:, None] * (logp / LOG2E + entropy[:, None])
        out_desc.store([row, column], grad.to(out_desc.dtype))


@launched
@triton.jit
def split_kernel(x_ptr, scale_ptr, out_ptr, numbers, LOW: tl.constexpr, BLOCK: tl.constexpr):
    """x * scale as float16, and behind it in `out` what that rounding has cut off."""
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(x_ptr + at, mask=at < numbers, other=0.0).to(tl.float32) * tl.load(scale_ptr)
    high = x.to(tl.float16)
    tl.store(out_ptr + at, high, mask=at < numbers)
    if LOW:
        tl.store(out_ptr + numbers + at, (x - high.to(tl.float32)).to(tl.float16), mask=at < numbers)
