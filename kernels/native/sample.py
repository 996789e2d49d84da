"""Keyed sampling in C and writing down what was drawn: float32 logits on the CPU, nothing cut away."""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_cispo.kernels.decoding.columns import Columns
from lightning_cispo.kernels.native.library import call


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


def record_native(
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
    """`kernels.decoding.record_triton`'s, in one call: codes int64 [B]."""
    code_B, slots = torch.empty_like(token_B), slice(first_slot, first_slot + len(token_B))
    held = [table_CS[column, slots] for column in (columns.token, columns.count, columns.limit, columns.confident)]
    responses = tokens_SL[slots], logprobs_SL[slots]
    sizes = len(token_B), stops_BW.shape[1], tokens_SL.shape[1]
    whole_B = logprob_B if whole_B is None else whole_B
    call("record", *sizes, token_B, logprob_B, whole_B, stops_BW, *held, *responses, confidence, most_confident, code_B)
    return code_B


def score_native(logits_TV: Tensor, temperature_T: Tensor, tokens_T: Tensor) -> Tensor:
    """Log-probabilities [T] of given tokens, int64, bit by bit those that `sample_native` gives the tokens it draws."""
    logprobs_T = torch.empty_like(temperature_T)
    call("score", *logits_TV.shape, *(x.contiguous() for x in (logits_TV, temperature_T, tokens_T)), logprobs_T)
    return logprobs_T
