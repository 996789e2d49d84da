"""From logits to tokens: temperature, top-k, top-p, greedy, and the log-probability of what was drawn."""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_cispo.kernels.exact.layers import tempered_logprobs


def sample(
    logits_BV: Tensor,
    temperature_B: Tensor,
    uniform_B: Tensor,
    top_p_B: Tensor | None = None,
    top_k_B: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Tokens by inverse CDF and their log-probabilities.

    Args:
        logits_BV: float32 [B, V]; temperature_B: float32 [B] (0: greedy); uniform_B: float64 [B].
        top_p_B, top_k_B: given together where any row cuts its distribution (1 and 0: not that row).
    Returns: tokens int64 [B]; logprobs float32 [B], under exactly the distribution they were drawn from; that
        distribution's log-probabilities [B, V]. A greedy row takes the first of its likeliest tokens, and has the
        log-probabilities of temperature 1.
    """
    greedy_B = temperature_B == 0
    logp_BV = tempered_logprobs(logits_BV, temperature_B.masked_fill(greedy_B, 1.0))
    if top_p_B is not None and top_k_B is not None:
        logp_BV = _cut(logp_BV, top_p_B, top_k_B)
    cdf_BV = logp_BV.double().exp_().cumsum(-1)
    tokens_B = torch.searchsorted(cdf_BV, (uniform_B * cdf_BV[:, -1])[:, None], right=True).squeeze(1)
    tokens_B = tokens_B.clamp_(max=logits_BV.shape[1] - 1).where(~greedy_B, logits_BV.argmax(-1))
    return tokens_B, logp_BV.gather(1, tokens_B[:, None]).squeeze(1), logp_BV


def _cut(logp_BV: Tensor, top_p_B: Tensor, top_k_B: Tensor) -> Tensor:
    """Only the `top_k` likeliest, and of these the fewest that hold `top_p` of their mass; renormalised.

    Rows that cut nothing come out bit for bit as they were: a response must not change with its neighbours.
    """
    vocabulary = logp_BV.shape[1]
    sorted_BV, order_BV = logp_BV.sort(stable=True, dim=-1, descending=True)
    rank_V = torch.arange(vocabulary, device=logp_BV.device)
    p_BV = sorted_BV.double().exp() * (rank_V < top_k_B.where(top_k_B > 0, vocabulary)[:, None])
    before_BV = (p_BV.cumsum(-1) - p_BV) / p_BV.sum(-1, keepdim=True)
    kept_BV = (p_BV > 0) & ((before_BV < top_p_B[:, None]) | (rank_V == 0))
    kept_BV = torch.zeros_like(kept_BV).scatter_(1, order_BV, kept_BV)
    cut_BV = logp_BV.masked_fill(~kept_BV, float("-inf")).log_softmax(-1)
    return cut_BV.where(((top_p_B < 1) | (top_k_B > 0))[:, None], logp_BV)


def ban(logits_BV: Tensor, ids_BK: Tensor, banned_B: Tensor) -> Tensor:
    """Logits with the ids (negative: none) of `banned_B` rows at -inf."""
    inside_BK = (ids_BK >= 0) & (ids_BK < logits_BV.shape[1]) & banned_B[:, None]
    # What is not banned aims at a column past the last, which is cut off.
    columns_BK = ids_BK.where(inside_BK, logits_BV.shape[1])
    mask = torch.zeros(len(logits_BV), logits_BV.shape[1] + 1, dtype=torch.bool, device=logits_BV.device)
    return logits_BV.masked_fill(mask.scatter_(1, columns_BK, True)[:, :-1], float("-inf"))
