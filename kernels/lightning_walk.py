"""The device side of `kernels.lightning_triton`: a walk along a segment, and what enters each segment."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def walk_kernel(
    q_ptr,
    k_ptr,
    v_ptr,
    o_ptr,
    slopes_ptr,
    cu_ptr,
    sequence_ptr,
    start_ptr,
    entering_ptr,
    leaving_ptr,
    q_row,
    q_head,
    k_row,
    k_head,
    v_row,
    v_head,
    SEGMENT,
    H: tl.constexpr,
    D: tl.constexpr,
    DIM: tl.constexpr,
    COLUMNS: tl.constexpr,
    C: tl.constexpr,
    BACKWARDS: tl.constexpr,
    ENTERING: tl.constexpr,
    LEAVING: tl.constexpr,
    OUTPUT: tl.constexpr,
    SKIP_SINGLE: tl.constexpr,
    SPLIT: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """A block of value columns of one head along one segment. States are [segment, H, D, D] in float32."""
    segment, head, block = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    sequence = tl.load(sequence_ptr + segment)
    first = tl.load(cu_ptr + sequence) + tl.load(start_ptr + segment)
    last = tl.minimum(first + SEGMENT, tl.load(cu_ptr + sequence + 1))
    if SKIP_SINGLE:  # a sequence of one segment: nobody asks what it leaves
        tokens = tl.load(cu_ptr + sequence + 1) - tl.load(cu_ptr + sequence)
        last = tl.where(tokens <= SEGMENT, first, last)
    slope = tl.load(slopes_ptr + head).to(tl.float32)
    i = tl.arange(0, C)
    d = tl.arange(0, DIM)
    e = block * COLUMNS + tl.arange(0, COLUMNS)
    state_at = (segment.to(tl.int64) * H + head) * D * D + d[:, None] * D + e[None, :]
    state_mask = (d[:, None] < D) & (e[None, :] < D)
    if ENTERING:
        state = tl.load(entering_ptr + state_at, mask=state_mask, other=0.0)
    else:
        state = tl.zeros([DIM, COLUMNS], dtype=tl.float32)
    # Only ever exp(-s * distance) with distance >= 0.
    distance = tl.maximum(i[:, None] - i[None, :], 0)
    mask = tl.where(i[:, None] >= i[None, :], tl.exp(-slope * distance), 0.0)
    q_decay = tl.exp(-slope * (i + 1))
    for done in range(0, last - first, C):
        length = tl.minimum(C, last - first - done)
        if BACKWARDS:
            rows = (last - 1 - done - i).to(tl.int64)
        else:
            rows = (first + done + i).to(tl.int64)
        valid = i < length
        k_mask = valid[:, None] & (d[None, :] < D)
        k = tl.load(k_ptr + rows[:, None] * k_row + head * k_head + d[None, :], mask=k_mask, other=0.0)
        v_mask = valid[:, None] & (e[None, :] < D)
        v = tl.load(v_ptr + rows[:, None] * v_row + head * v_head + e[None, :], mask=v_mask, other=0.0)
        if OUTPUT:
            q = tl.load(q_ptr + rows[:, None] * q_row + head * q_head + d[None, :], mask=k_mask, other=0.0)
            scores = tl.dot(q, tl.trans(k), input_precision=PRECISION) * mask
            o = tl.dot(q, state.to(q.dtype), input_precision=PRECISION) * q_decay[:, None]
            o += tl.dot(scores.to(v.dtype), v, input_precision=PRECISION)
            at = (rows[:, None] * H + head) * D + e[None, :]
            tl.store(o_ptr + at, o.to(o_ptr.dtype.element_ty), mask=v_mask)
        left = tl.maximum(length - 1 - i, 0)
        decayed = k.to(tl.float32) * tl.exp(-slope * left)[:, None]
        rounded = decayed.to(k.dtype)
        # Not accumulated in the product: a chunk's sum is rounded to the state's scale once, not at each of its tokens.
        state = state * tl.exp(-slope * length) + tl.dot(tl.trans(rounded), v, input_precision=PRECISION)
        if SPLIT:  # what rounding to bf16 has cut off
            rest = (decayed - rounded.to(tl.float32)).to(k.dtype)
            state += tl.dot(tl.trans(rest), v, input_precision=PRECISION)
    if LEAVING:
        tl.store(leaving_ptr + state_at, state, mask=state_mask)


@triton.jit
def join_kernel(
    initial_ptr,
    state_ptr,
    final_ptr,
    slopes_ptr,
    cu_ptr,
    first_ptr,
    SEGMENT,
    H: tl.constexpr,
    NUMBERS: tl.constexpr,
    BLOCK: tl.constexpr,
    BACKWARDS: tl.constexpr,
    INITIAL: tl.constexpr,
):
    """From what each segment adds to what enters it, in place, and the state after each sequence's last."""
    sequence, head, block = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    slope = tl.load(slopes_ptr + head).to(tl.float32)
    n = block * BLOCK + tl.arange(0, BLOCK)
    own_at = (sequence.to(tl.int64) * H + head) * NUMBERS + n
    if INITIAL:
        state = tl.load(initial_ptr + own_at, mask=n < NUMBERS, other=0.0)
    else:
        state = tl.zeros([BLOCK], dtype=tl.float32)
    tokens = tl.load(cu_ptr + sequence + 1) - tl.load(cu_ptr + sequence)
    first = tl.load(first_ptr + sequence)
    count = (tokens + SEGMENT - 1) // SEGMENT
    for step in range(0, count):
        index = step
        if BACKWARDS:
            index = count - 1 - step
        at = ((first + index).to(tl.int64) * H + head) * NUMBERS + n
        added = tl.load(state_ptr + at, mask=n < NUMBERS, other=0.0)
        tl.store(state_ptr + at, state, mask=n < NUMBERS)
        length = tl.minimum(SEGMENT, tokens - index * SEGMENT)
        state = state * tl.exp(-slope * length) + added
    tl.store(final_ptr + own_at, state, mask=n < NUMBERS)
