"""Log-probabilities of given tokens in Triton, by the very sums that `kernels.decoding.sample_triton` draws with."""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from lightning_cispo.kernels.decoding.sample_triton import CHUNK, chunk_kernel, whole
from lightning_cispo.kernels.launcher import launched


@launched
@triton.jit
def _score_kernel(
    logits_ptr,
    temperature_ptr,
    token_ptr,
    top_ptr,
    sum_ptr,
    moment_ptr,
    logprob_ptr,
    entropy_ptr,
    lse_ptr,
    V: tl.constexpr,
    CHUNKS: tl.constexpr,
    CHUNKS_PADDED: tl.constexpr,
):
    """A row's log-probability as the draw finds it, and the entropy of its distribution."""
    row, c = tl.program_id(0).to(tl.int64), tl.arange(0, CHUNKS_PADDED)
    temperature = tl.load(temperature_ptr + row)
    tops = tl.load(top_ptr + row * CHUNKS + c, mask=c < CHUNKS, other=float("-inf"))
    top = tl.max(tops, 0)
    scale = tl.exp(tops - top).to(tl.float64)
    mass = tl.load(sum_ptr + row * CHUNKS + c, mask=c < CHUNKS, other=0.0) * scale
    total = whole(tl.cumsum(mass, 0))
    logit = tl.load(logits_ptr + row * V + tl.load(token_ptr + row)) / temperature
    tl.store(logprob_ptr + row, (logit - top).to(tl.float64) - tl.log(total))
    lse = top.to(tl.float64) + tl.log(total)
    tl.store(lse_ptr + row, lse)
    moment = tl.load(moment_ptr + row * CHUNKS + c, mask=c < CHUNKS, other=0.0) * scale
    tl.store(entropy_ptr + row, lse - tl.sum(moment, 0) / total)


def score_triton(logits_TV: Tensor, temperature_T: Tensor, token_T: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Log-probabilities of tokens (int64), entropies, log-sum-exps [T], of float32 logits over temperatures above 0."""
    rows, vocabulary = logits_TV.shape
    chunks, device = triton.cdiv(vocabulary, CHUNK), logits_TV.device
    top = torch.empty(rows, chunks, device=device)
    arg = torch.empty_like(top, dtype=torch.int32)
    sums, moments = torch.empty(2, rows, chunks, dtype=torch.float64, device=device)
    logprob_T, entropy_T, lse_T = torch.empty(3, rows, device=device)
    sizes = {"V": vocabulary, "num_warps": 8}
    kernel: Any = chunk_kernel
    none = token_T  # what bans a token: nothing here
    kernel[(chunks, rows)](
        logits_TV,
        temperature_T,
        none,
        none,
        none,
        top,
        arg,
        sums,
        moments,
        0,
        CHUNK=CHUNK,
        BANS=False,
        MOMENT=True,
        **sizes,
    )
    score: Any = _score_kernel
    score[(rows,)](
        logits_TV,
        temperature_T,
        token_T,
        top,
        sums,
        moments,
        logprob_T,
        entropy_T,
        lse_T,
        CHUNKS=chunks,
        CHUNKS_PADDED=triton.next_power_of_2(chunks),
        **sizes,
    )
    return logprob_T, entropy_T, lse_T
