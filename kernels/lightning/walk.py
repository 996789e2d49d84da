"""The device side of `kernels.lightning.launch`: a walk along a segment, and what enters each segment."""

from __future__ import annotations

import triton
import triton.language as tl

from lightning_cispo.kernels.launcher import launched


@launched
@triton.jit(do_not_specialize=["SEGMENT"])
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
    CUT: tl.constexpr,
    BACKWARDS: tl.constexpr,
    ENTERING: tl.constexpr,
    LEAVING: tl.constexpr,
    OUTPUT: tl.constexpr,
    SKIP_SINGLE: tl.constexpr,
    SPLIT: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """A block of value columns of one head along one segment. States are [segment, H, D, D] in float32."""
    # Blocks of the same columns' q and k run side by side, so that one of them finds the tiles in the cache.
    block, segment, head = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    if CUT:
        sequence = tl.load(sequence_ptr + segment)
        first = tl.load(cu_ptr + sequence) + tl.load(start_ptr + segment)
        last = tl.minimum(first + SEGMENT, tl.load(cu_ptr + sequence + 1))
    else:  # a segment is a sequence
        sequence = segment
        first = tl.load(cu_ptr + segment)
        last = tl.load(cu_ptr + segment + 1)
    if SKIP_SINGLE:  # a sequence of one segment: nobody asks what it leaves
        tokens = tl.load(cu_ptr + sequence + 1) - tl.load(cu_ptr + sequence)
        last = tl.where(tokens <= SEGMENT, first, last)
    slope = tl.load(slopes_ptr + head).to(tl.float32 if PRECISION == "tf32" else tl.float64)
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
    mask = tl.where(i[:, None] >= i[None, :], tl.exp(-slope * distance).to(tl.float32), 0.0)
    q_decay = tl.exp(-slope * (i + 1)).to(tl.float32)
    # A state meets one such factor for every chunk, and the device's float32 exp is only good to 2^-22.
    exact_slope = tl.load(slopes_ptr + head).to(tl.float64)
    kept_whole = tl.exp(-exact_slope * C).to(tl.float32)
    kept_rest = tl.exp(-exact_slope * ((last - first) % C)).to(tl.float32)
    # Of a tile's addresses only a scalar moves along; what stays is small enough for 32 bits.
    step = -i[:, None] if BACKWARDS else i[:, None]
    at_q, at_k = step * q_row + d[None, :], step * k_row + d[None, :]
    at_v, at_o = step * v_row + e[None, :], step * (H * D) + e[None, :]
    for done in range(0, last - first, C):
        length = tl.minimum(C, last - first - done)
        if BACKWARDS:
            row = (last - 1 - done).to(tl.int64)
        else:
            row = (first + done).to(tl.int64)
        valid = i < length
        k_mask = valid[:, None] & (d[None, :] < D)
        k = tl.load(k_ptr + row * k_row + head * k_head + at_k, mask=k_mask, other=0.0)
        v_mask = valid[:, None] & (e[None, :] < D)
        v = tl.load(v_ptr + row * v_row + head * v_head + at_v, mask=v_mask, other=0.0)
        if OUTPUT:
            q = tl.load(q_ptr + row * q_row + head * q_head + at_q, mask=k_mask, other=0.0)
            scores = tl.dot(q, tl.trans(k), input_precision=PRECISION) * mask
            o = tl.dot(q, state.to(q.dtype), input_precision=PRECISION) * q_decay[:, None]
            o += tl.dot(scores.to(v.dtype), v, input_precision=PRECISION)
            tl.store(o_ptr + (row * H + head) * D + at_o, o.to(o_ptr.dtype.element_ty), mask=v_mask)
        left = tl.maximum(length - 1 - i, 0)
        # Of k and v it is v that decays: k stays in shared memory, where both products that need it read it.
        decayed = v.to(tl.float32) * tl.exp(-slope * left).to(tl.float32)[:, None]
        rounded = decayed.to(v.dtype)
        kept = tl.where(length == C, kept_whole, kept_rest)
        if SPLIT:  # 24 bits of the decayed values, and a sum that rounds: the tensor cores cut their accumulator off
            rest = decayed - rounded.to(tl.float32)
            middle = rest.to(v.dtype)
            added = tl.dot(tl.trans(k), (rest - middle.to(tl.float32)).to(v.dtype), input_precision=PRECISION)
            added += tl.dot(tl.trans(k), middle, input_precision=PRECISION)
            added += tl.dot(tl.trans(k), rounded, input_precision=PRECISION)
            state = tl.fma(state, tl.zeros_like(state) + kept, added)
        else:
            state = state * kept + tl.dot(tl.trans(k), rounded, input_precision=PRECISION)
    if LEAVING:
        tl.store(leaving_ptr + state_at, state, mask=state_mask)


@launched
@triton.jit(do_not_specialize=["SEGMENT"])
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
    slope = tl.load(slopes_ptr + head).to(tl.float64)
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
        state = state * tl.exp(-slope * length).to(tl.float32) + added
    tl.store(final_ptr + own_at, state, mask=n < NUMBERS)
