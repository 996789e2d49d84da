"""What one optimizer update tells about itself: sums over counted tokens, so that ranks and micro-batches add up."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from lightning_cispo.rl.objectives.cispo import TokenLoss

# Relative variance below which float64 moments cannot tell a variable from a constant.
_ROUNDING = 1e-13


@dataclass
class UpdateSums:
    """Sums over counted tokens; `ratio_max` and `ratio_min` are extremes instead."""

    tokens: float = 0.0
    loss: float = 0.0  # already scaled: adds up to the step's loss
    aux_loss: float = 0.0
    entropy: float = 0.0
    clipped: float = 0.0
    ratio: float = 0.0
    weight: float = 0.0
    weight_squared: float = 0.0
    k3: float = 0.0  # r - 1 - log r against the sampler
    p: float = 0.0  # learner's probabilities, the sampler's, and their moments
    q: float = 0.0
    pp: float = 0.0
    qq: float = 0.0
    pq: float = 0.0
    positive_mass: float = 0.0  # scaled |weight * advantage| of positive and negative samples
    negative_mass: float = 0.0
    routing_choices: float = 0.0  # recorded expert choices, and those the learner would have made otherwise
    routing_changed: float = 0.0
    ratio_max: float = float("-inf")
    ratio_min: float = float("inf")

    @staticmethod
    def of(parts: Iterable[Tensor]) -> UpdateSums:
        """All that `update_sums` found, added up; waits for it."""
        total = UpdateSums()
        for part in torch.stack(list(parts)).tolist():
            total.add(UpdateSums(*part))
        return total

    def add(self, other: UpdateSums) -> None:
        for field in fields(self):
            mine, theirs = getattr(self, field.name), getattr(other, field.name)
            combine = {"ratio_max": max, "ratio_min": min}.get(field.name)
            setattr(self, field.name, combine(mine, theirs) if combine else mine + theirs)

    def metrics(self, updates: int = 1) -> dict[str, float]:
        """The `policy/...` metrics, the scaled sums as means over `updates`; empty without a counted token."""
        n = self.tokens
        if not n:
            return {}
        replay = {"policy/routing_changed": self.routing_changed / self.routing_choices} if self.routing_choices else {}
        return {
            **replay,
            "policy/loss": self.loss / updates,
            "policy/aux_loss": self.aux_loss / updates,
            "policy/entropy": self.entropy / n,
            "policy/clip_fraction": self.clipped / n,
            "policy/ratio_mean": self.ratio / n,
            "policy/ratio_max": self.ratio_max,
            "policy/ratio_min": self.ratio_min,
            "policy/weight_mean": self.weight / n,
            "policy/ess": self.weight * self.weight / (n * self.weight_squared) if self.weight_squared else 0.0,
            "policy/k3_kl": self.k3 / n,
            "policy/pearson": self._pearson(),
            "policy/loss_mass_positive": self.positive_mass / updates,
            "policy/loss_mass_negative": self.negative_mass / updates,
        }

    def _pearson(self) -> float:
        """Correlation of p and q from their moments; 1 where either is constant up to rounding."""
        n = self.tokens
        p, q = self.p / n, self.q / n
        p_variance, q_variance = self.pp / n - p * p, self.qq / n - q * q
        # A difference of two nearly equal sums is rounding, of either sign.
        if p_variance <= _ROUNDING * p * p or q_variance <= _ROUNDING * q * q:
            return 1.0
        found = (self.pq / n - p * q) / (math.sqrt(p_variance) * math.sqrt(q_variance))
        return found if math.isnan(found) else min(1.0, max(-1.0, found))


@torch.no_grad()
def update_sums(
    token: TokenLoss,
    logprobs_T: Tensor,
    sampler_T: Tensor,
    entropy_T: Tensor,
    advantages_T: Tensor,
    scales_T: Tensor,
    aux_loss: Tensor | None = None,
    routing: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """Sums over the tokens whose scale is not 0: float64, in the order of UpdateSums.

    token to scales_T: [T]. aux_loss, and routing as `changed_choices` has it: scalars, 0 where absent. The result stays
    where the arguments are: nobody waits for it.
    """
    counted_T = scales_T != 0

    def of(x_T: Tensor) -> Tensor:
        return x_T.double().where(counted_T, 0.0)

    ratio, weight, log_r = of(token.ratio_T), of(token.weight_T), of(logprobs_T - sampler_T)
    p, q = of(logprobs_T.double().exp()), of(sampler_T.double().exp())
    mass = of(scales_T * token.weight_T * advantages_T)
    zero = scales_T.new_zeros(())
    choices, changed = routing or (zero, zero)
    found = {
        "tokens": counted_T.sum(),
        "loss": of(scales_T * token.loss_T).sum(),
        "aux_loss": zero if aux_loss is None else aux_loss,
        "entropy": of(entropy_T).sum(),
        "clipped": of(token.clipped_T).sum(),
        "ratio": ratio.sum(),
        "weight": weight.sum(),
        "weight_squared": weight.square().sum(),
        "k3": (log_r.exp() - 1 - log_r).sum(),
        "p": p.sum(),
        "q": q.sum(),
        "pp": p.square().sum(),
        "qq": q.square().sum(),
        "pq": (p * q).sum(),
        "positive_mass": mass.clamp(min=0).sum(),
        "negative_mass": -mass.clamp(max=0).sum(),
        "routing_choices": choices,
        "routing_changed": changed,
        "ratio_max": ratio.where(counted_T, float("-inf")).max(),
        "ratio_min": ratio.where(counted_T, float("inf")).min(),
    }
    return torch.stack([found[field.name].double() for field in fields(UpdateSums)])
