"""Cross-entropy on demonstrations, in the shape of a policy objective."""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_cispo.rl.objectives.cispo import TokenLoss


def supervised(logprobs_T: Tensor) -> TokenLoss:
    """loss_t = -log pi(o_t); ratios and weights are 1."""
    ones = torch.ones_like(logprobs_T)
    return TokenLoss(-logprobs_T, ones, ones, torch.zeros_like(logprobs_T, dtype=torch.bool))
