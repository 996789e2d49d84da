"""Keyed sampling in C: float32 logits on the CPU, nothing cut from the distribution."""

from __future__ import annotations

import torch
from torch import Tensor

from kernels.native.library import call


def sample_native(
    logits_BV: Tensor, temperature_B: Tensor, keys_B: Tensor, positions_B: Tensor
) -> tuple[Tensor, Tensor]:
    """Tokens int64 [B] by inverse CDF and their log-probabilities float32 [B].

    logits_BV, temperature_B (0: greedy): float32; keys_B, positions_B: int64, naming each row's uniform in [0, 1).
    """
    tokens_B, logprobs_B = torch.empty_like(keys_B), torch.empty_like(temperature_B)
    given = [x.contiguous() for x in (logits_BV, temperature_B, keys_B, positions_B)]
    call("sample", *logits_BV.shape, *given, tokens_B, logprobs_B)
    return tokens_B, logprobs_B


def score_native(logits_TV: Tensor, temperature_T: Tensor, tokens_T: Tensor) -> Tensor:
    """Log-probabilities [T] of given tokens, int64, bit by bit those that `sample_native` gives the tokens it draws."""
    logprobs_T = torch.empty_like(temperature_T)
    call("score", *logits_TV.shape, *(x.contiguous() for x in (logits_TV, temperature_T, tokens_T)), logprobs_T)
    return logprobs_T
