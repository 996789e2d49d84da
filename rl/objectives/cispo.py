"""CISPO: clipped importance weights, no token dropped (MiniMax-M1, arXiv 2506.13585, equations 4 to 7)."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from lightning_cispo.configs.schema import AlgorithmConfig


class TokenLoss(NamedTuple):
    """Per token, all [T]; only `loss_T` carries a gradient."""

    loss_T: Tensor
    ratio_T: Tensor
    weight_T: Tensor
    clipped_T: Tensor  # bool: the bounds or the unified mask changed the weight


def cispo(
    logprobs_T: Tensor, anchor_T: Tensor, sampler_T: Tensor, advantages_T: Tensor, config: AlgorithmConfig
) -> TokenLoss:
    """loss_t = -sg(clip(r_t, min, max)) * A_t * log pi(o_t), with r_t = pi / pi_anchor.

    logprobs_T: the policy's, differentiable. anchor_T: those under the ratio. sampler_T: those recorded while
    generating, which
    only truncated importance sampling reads (cap on pi_anchor / pi_sampler). advantages_T: one value a token. All
    float32 [T].
    With the unified mask and an unclipped weight the gradient is PPO's (equation 7): one formula holds the family.
    """
    ratio_T = (logprobs_T - anchor_T).detach().exp()
    weight_T = ratio_T.clamp(config.is_weight_min, config.is_weight_max)
    if config.unified_mask:
        above = (advantages_T > 0) & (ratio_T > 1 + config.eps_high)
        below = (advantages_T < 0) & (ratio_T < 1 - config.eps_low)
        weight_T = weight_T.masked_fill(above | below, 0.0)
    clipped_T = weight_T != ratio_T
    if config.truncated_is_max is not None:
        weight_T = weight_T * (anchor_T - sampler_T).exp().clamp(max=config.truncated_is_max)
    return TokenLoss(-weight_T * advantages_T * logprobs_T, ratio_T, weight_T, clipped_T)
