"""Packed sequences cut into segments that are walked side by side, by a kernel: the host never learns the lengths."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from lightning_cispo.kernels.launcher import ceil_div, launched

_WANTED_PROGRAMS = 528  # four for each multiprocessor of an H100
_ENOUGH_A_SEQUENCE = 96  # walkers of one sequence with which it keeps up alone
_SHORTEST_SEGMENT = 512
_SHORT_SEQUENCE = 2048  # tokens that one program walks sooner than segments are found, walked and joined
_MULTIPLE = 64


class Segments(NamedTuple):
    """Sequences cut into segments of `length` tokens; on the device, their number bounded by shapes alone."""

    length: int
    sequence_G: Tensor  # int32; segments beyond the last have no tokens
    start_G: Tensor  # int32, within the sequence
    first_S: Tensor  # int32 first segment of each sequence


_last: tuple[Tensor, tuple[int, int, int], Segments] | None = None  # what was asked last, and the answer


def segment_length(tokens: int, sequences: int, walkers: int) -> int | None:
    """Tokens of a segment, None for whole sequences; from shapes alone. `walkers`: programs of one sequence at most.

    The second bound: so many walkers hide how unlike the lengths of their sequences are.
    """
    short = tokens <= _SHORT_SEQUENCE * sequences
    if short or walkers >= _ENOUGH_A_SEQUENCE or sequences * walkers >= _WANTED_PROGRAMS:
        return None
    segments = ceil_div(_WANTED_PROGRAMS, walkers)
    return max(_SHORTEST_SEGMENT, ceil_div(ceil_div(tokens, segments), _MULTIPLE) * _MULTIPLE)


def cut_into_segments(cu_seqlens: Tensor, tokens: int, length: int) -> Segments:
    """Never waits for the device. A segment beyond the last starts at its sequence's end.

    All layers of a pass ask for the same, forward and backward: the last answer is kept, and holds for the same tensor
    as long as nobody has written to it (what inference mode makes does not say so).
    """
    global _last
    if cu_seqlens.is_inference():
        return _cut(cu_seqlens, tokens, length)
    asked = cu_seqlens._version, tokens, length
    if _last is None or _last[0] is not cu_seqlens or _last[1] != asked:
        _last = cu_seqlens, asked, _cut(cu_seqlens, tokens, length)
    return _last[2]


def _cut(cu_seqlens: Tensor, tokens: int, length: int) -> Segments:
    sequences = cu_seqlens.shape[0] - 1
    count = tokens // length + sequences
    whole = -(-count // 4) * 4  # each part begins at 16 bytes: otherwise Triton compiles the walk anew
    table = torch.empty(2 * whole + sequences, dtype=torch.int32, device=cu_seqlens.device)
    cut = Segments(length, table[:count], table[whole : whole + count], table[2 * whole :])
    kernel: Any = _table_kernel
    kernel[(sequences,)](cu_seqlens, *cut[1:], sequences, count, length, BLOCK=128)
    return cut


@launched
@triton.jit(do_not_specialize=["sequences", "segments", "LENGTH"])
def _table_kernel(cu_ptr, sequence_ptr, start_ptr, first_ptr, sequences, segments, LENGTH, BLOCK: tl.constexpr):
    """The segments of one sequence; the last one's program fills the table up."""
    own = tl.program_id(0)
    lane = tl.arange(0, BLOCK)
    first = 0
    for before in range(0, own, BLOCK):
        j = before + lane
        tokens = tl.load(cu_ptr + j + 1, mask=j < own, other=0) - tl.load(cu_ptr + j, mask=j < own, other=0)
        first += tl.sum((tokens + LENGTH - 1) // LENGTH).to(tl.int32)
    tokens = (tl.load(cu_ptr + own + 1) - tl.load(cu_ptr + own)).to(tl.int32)
    tl.store(first_ptr + own, first)
    end = tl.where(own == sequences - 1, segments, first + (tokens + LENGTH - 1) // LENGTH)
    for at in range(first, end, BLOCK):
        g = at + lane
        tl.store(sequence_ptr + g, tl.zeros_like(g) + own, mask=g < end)
        tl.store(start_ptr + g, tl.minimum((g - first) * LENGTH, tokens), mask=g < end)
