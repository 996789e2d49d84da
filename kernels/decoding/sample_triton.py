"""Sampling in Triton: temperature, inverse CDF in float64, and the token's log-probability, in two launches.

The vocabulary is cut into chunks that one program each sums up; a program a row then finds the chunk in which its
number falls, and the token within it. A row's result depends on nothing but its logits, key and count.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from lightning_cispo.kernels.launcher import launched

CHUNK = 4096


@triton.jit
def _scaled(logits_ptr, stops_ptr, width, row, i, temperature, bans, V: tl.constexpr, BANS: tl.constexpr):
    """Logits over temperature; stop ids at -inf where `bans`."""
    x = tl.load(logits_ptr + row.to(tl.int64) * V + i, mask=i < V, other=float("-inf")) / temperature
    if BANS:
        for j in range(width):
            x = tl.where((i == tl.load(stops_ptr + row.to(tl.int64) * width + j)) & bans, float("-inf"), x)
    return x


@launched
@triton.jit
def chunk_kernel(
    logits_ptr,
    temperature_ptr,
    stops_ptr,
    count_ptr,
    least_ptr,
    top_ptr,
    arg_ptr,
    sum_ptr,
    moment_ptr,
    width,
    V: tl.constexpr,
    CHUNK: tl.constexpr,
    BANS: tl.constexpr,
    MOMENT: tl.constexpr,
):
    """Of one chunk: the largest logit, where it is, and the sum of exponentials below it; that of their products with
    the logits where MOMENT."""
    chunk, row = tl.program_id(0), tl.program_id(1)
    i = chunk * CHUNK + tl.arange(0, CHUNK)
    temperature = tl.load(temperature_ptr + row)
    temperature = tl.where(temperature == 0, 1.0, temperature)
    bans = tl.load(count_ptr + row) < tl.load(least_ptr + row)
    x = _scaled(logits_ptr, stops_ptr, width, row, i, temperature, bans, V, BANS)
    top = tl.max(x, 0)
    weights = tl.exp(x - tl.where(top > float("-inf"), top, 0.0)).to(tl.float64)
    at = row * tl.num_programs(0) + chunk
    tl.store(top_ptr + at, top)
    # Where there is a NaN, the place of the largest may lie in the padding.
    tl.store(arg_ptr + at, tl.minimum(chunk * CHUNK + tl.argmax(x, 0), V - 1))
    tl.store(sum_ptr + at, tl.sum(weights, 0))
    if MOMENT:
        tl.store(moment_ptr + at, tl.sum(weights * tl.where(weights > 0, x, 0.0).to(tl.float64), 0))


@triton.jit
def whole(upto):
    """The last of running sums, NaN where one is: the largest alone would pass over it."""
    return tl.where(tl.max((upto != upto).to(tl.int32), 0) > 0, float("nan"), tl.max(upto, 0))


@triton.jit
def _uniform(key, count):
    """As `model.generation.randomness.uniform`: splitmix64."""
    z = key.to(tl.uint64) + (count + 1).to(tl.uint64) * 0x9E3779B97F4A7C15
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB
    z = z ^ (z >> 31)
    return (z >> 11).to(tl.int64).to(tl.float64) * (1.0 / 9007199254740992.0)


@triton.jit
def _draw_kernel(
    logits_ptr,
    temperature_ptr,
    stops_ptr,
    count_ptr,
    least_ptr,
    key_ptr,
    top_ptr,
    arg_ptr,
    sum_ptr,
    token_ptr,
    logprob_ptr,
    width,
    V: tl.constexpr,
    CHUNK: tl.constexpr,
    CHUNKS: tl.constexpr,
    CHUNKS_PADDED: tl.constexpr,
    BANS: tl.constexpr,
):
    row, c = tl.program_id(0), tl.arange(0, CHUNKS_PADDED)
    count, greedy = tl.load(count_ptr + row), tl.load(temperature_ptr + row) == 0
    temperature = tl.where(greedy, 1.0, tl.load(temperature_ptr + row))
    bans = count < tl.load(least_ptr + row)
    tops = tl.load(top_ptr + row * CHUNKS + c, mask=c < CHUNKS, other=float("-inf"))
    top = tl.max(tops, 0)
    mass = tl.load(sum_ptr + row * CHUNKS + c, mask=c < CHUNKS, other=0.0) * tl.exp(tops - top).to(tl.float64)
    upto = tl.cumsum(mass, 0)
    total = whole(upto)
    aim = _uniform(tl.load(key_ptr + row), count) * total
    chunk = tl.minimum(tl.sum((upto <= aim).to(tl.int32), 0), CHUNKS - 1)
    before = tl.sum(tl.where(c < chunk, mass, 0.0), 0)
    own = tl.max(tl.where(c == chunk, tops, float("-inf")), 0)
    i = chunk * CHUNK + tl.arange(0, CHUNK)
    x = _scaled(logits_ptr, stops_ptr, width, row, i, temperature, bans, V, BANS)
    weights = tl.exp(x - tl.where(own > float("-inf"), own, 0.0)).to(tl.float64) * tl.exp(own - top).to(tl.float64)
    token = chunk * CHUNK + tl.sum((before + tl.cumsum(weights, 0) <= aim).to(tl.int32), 0)
    token = tl.minimum(token, tl.max(tl.where(weights > 0, i, 0), 0))
    best = tl.min(tl.where((tops == top) & (c < CHUNKS), c, CHUNKS - 1), 0)  # of NaN, none is the largest
    token = tl.where(greedy, tl.load(arg_ptr + row * CHUNKS + best), token)
    # What was drawn is never banned: only the temperature has changed its logit.
    logit = tl.load(logits_ptr + row.to(tl.int64) * V + token) / temperature
    tl.store(token_ptr + row, token.to(tl.int64))
    tl.store(logprob_ptr + row, (logit - top).to(tl.float64) - tl.log(total))


@dataclass(frozen=True)
class Draw:
    """What a row's draw depends on beside its logits, all [B]: float32, and int64 for the rest."""

    temperature: Tensor  # 0: greedy
    key: Tensor
    count: Tensor
    least: Tensor  # no stop id is drawn while count is below it


def sample_triton(logits_BV: Tensor, draw: Draw, stops_BW: Tensor, bans: bool) -> tuple[Tensor, Tensor]:
    """As `model.generation.sampling.sample` with `ban` before it, without top-p and top-k.

    Args:
        logits_BV: float32; stops_BW: int64, contiguous, negative for none; bans: whether any row bans them.
    Returns: tokens int64 [B], log-probabilities float32 [B].
    """
    rows, vocabulary = logits_BV.shape
    chunks, device = triton.cdiv(vocabulary, CHUNK), logits_BV.device
    top = torch.empty(rows, chunks, device=device)
    arg, sums = torch.empty_like(top, dtype=torch.int32), torch.empty_like(top, dtype=torch.float64)
    token_B = torch.empty(rows, dtype=torch.int64, device=device)
    logprob_B = torch.empty(rows, device=device)
    sizes = {"V": vocabulary, "CHUNK": CHUNK, "BANS": bans, "num_warps": 8}
    bounds = (draw.temperature, stops_BW, draw.count, draw.least)
    kernel: Any = chunk_kernel
    kernel[(chunks, rows)](logits_BV, *bounds, top, arg, sums, sums, stops_BW.shape[1], MOMENT=False, **sizes)
    padded = triton.next_power_of_2(chunks)
    draw_kernel: Any = _draw_kernel
    draw_kernel[(rows,)](
        logits_BV,
        *bounds,
        draw.key,
        top,
        arg,
        sums,
        token_B,
        logprob_B,
        stops_BW.shape[1],
        CHUNKS=chunks,
        CHUNKS_PADDED=padded,
        **sizes,
    )
    return token_B, logprob_B
