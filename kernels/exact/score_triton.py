"""Log-probabilities of given tokens in Triton, by the very sums that `kernels.decoding.sample_triton` draws with."""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.decoding.sample_triton import CHUNK, chunk_kernel

_BLOCK = 4096


@triton.jit
def _score_kernel(
    logits_ptr,
    temperature_ptr,
    token_ptr,
    top_ptr,
    sum_ptr,
    logprob_ptr,
    entropy_ptr,
    lse_ptr,
    V: tl.constexpr,
    CHUNKS: tl.constexpr,
    CHUNKS_PADDED: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """A row's log-probability as the draw finds it, and the entropy of its distribution."""
    row, c = tl.program_id(0).to(tl.int64), tl.arange(0, CHUNKS_PADDED)
    temperature = tl.load(temperature_ptr + row)
    tops = tl.load(top_ptr + row * CHUNKS + c, mask=c < CHUNKS, other=float("-inf"))
    top = tl.max(tops, 0)
    mass = tl.load(sum_ptr + row * CHUNKS + c, mask=c < CHUNKS, other=0.0) * tl.exp(tops - top).to(tl.float64)
    total = tl.max(tl.cumsum(mass, 0), 0)
    logit = tl.load(logits_ptr + row * V + tl.load(token_ptr + row)) / temperature
    tl.store(logprob_ptr + row, (logit - top).to(tl.float64) - tl.log(total))
    lse, entropy = top + tl.log(total).to(tl.float32), tl.zeros([BLOCK], tl.float32)
    tl.store(lse_ptr + row, lse)
    for start in range(0, V, BLOCK):
        i = start + tl.arange(0, BLOCK)
        logp = tl.load(logits_ptr + row * V + i, mask=i < V, other=0.0) / temperature - lse
        entropy -= tl.where(i < V, tl.exp(logp) * logp, 0.0)
    tl.store(entropy_ptr + row, tl.sum(entropy, 0))


def score_triton(logits_TV: Tensor, temperature_T: Tensor, token_T: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Log-probabilities of tokens (int64), entropies, log-sum-exps [T], of float32 logits over temperatures above 0."""
    rows, vocabulary = logits_TV.shape
    chunks, device = triton.cdiv(vocabulary, CHUNK), logits_TV.device
    top = torch.empty(rows, chunks, device=device)
    arg, sums = torch.empty_like(top, dtype=torch.int32), torch.empty_like(top, dtype=torch.float64)
    logprob_T, entropy_T, lse_T = torch.empty(3, rows, device=device)
    sizes = {"V": vocabulary, "num_warps": 8}
    kernel: Any = chunk_kernel
    none = token_T  # what bans a token: nothing here
    kernel[(chunks, rows)](
        logits_TV, temperature_T, none, none, none, top, arg, sums, 0, CHUNK=CHUNK, BANS=False, **sizes
    )
    score: Any = _score_kernel
    score[(rows,)](
        logits_TV,
        temperature_T,
        token_T,
        top,
        sums,
        logprob_T,
        entropy_T,
        lse_T,
        CHUNKS=chunks,
        CHUNKS_PADDED=triton.next_power_of_2(chunks),
        BLOCK=min(_BLOCK, triton.next_power_of_2(vocabulary)),
        **sizes,
    )
    return logprob_T, entropy_T, lse_T
