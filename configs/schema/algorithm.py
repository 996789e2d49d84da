"""What is optimised and how: CISPO, its family, the optimizer around it."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Optional


class Anchor(str, Enum):
    """Whose log-probabilities stand under the ratio."""

    sampler = "sampler"  # recorded while generating
    learner = "learner"  # recomputed with the weights at the start of the step


class Normalization(str, Enum):
    """Over what the per-token losses are averaged, always for the whole optimizer step."""

    prompt = "prompt"  # a group's token total, then a mean over prompts (CISPO)
    batch = "batch"  # the step's token total (DAPO)
    sample = "sample"  # each response's length, then a mean over responses (GRPO)
    constant = "constant"  # responses * max_tokens (Dr. GRPO)


class Contrast(str, Enum):
    """In what the responses of a group must differ for dynamic sampling to keep it."""

    reward = "reward"  # what advantages are made of
    correct = "correct"  # raw correctness, whatever shapes the reward (DAPO)


class Schedule(str, Enum):
    constant = "constant"
    cosine = "cosine"


@dataclass
class AlgorithmConfig:
    prompts_per_step: int = 64  # prompts sampled in a step
    group_size: int = 16  # responses to each prompt
    updates_per_step: int = 4  # optimizer updates a generation batch is cut into
    is_weight_min: float = 0.0  # absolute bounds of the importance weight, not 1 -/+ eps
    is_weight_max: float = 5.0
    anchor: Anchor = Anchor.sampler
    routing_replay: bool = False  # the learner keeps to the experts that the sampler's tokens went to (R3)
    truncated_is_max: Optional[float] = None  # learner anchor only: cap on learner/sampler mismatch weight
    unified_mask: bool = False  # drop tokens outside [1 - eps_low, 1 + eps_high] where PPO would
    eps_low: float = 0.2
    eps_high: float = 0.2
    advantage_std: bool = True  # divide by the group's std (False: Dr. GRPO)
    normalization: Normalization = Normalization.prompt
    dynamic_sampling: bool = True  # drop groups whose responses are all equal in `contrast`, and refill
    contrast: Contrast = Contrast.reward  # correct: also drop groups that differ in shaping alone
    max_refills: int = 0  # generation rounds to refill dropped groups with


@dataclass
class OptimizerConfig:
    """AdamW. Betas and eps are M1's: its gradients span 1e-18 to 1e-5."""

    lr: float = 1e-4
    beta1: float = 0.9
    beta2: float = 0.95
    eps: float = 1e-15
    weight_decay: float = 0.0
    grad_clip: float = 1.0
    warmup_updates: int = 0
    schedule: Schedule = Schedule.constant


@dataclass
class WarmStartConfig:
    """Supervised steps on short demonstrations before RL; 0 steps skip them."""

    steps: int = 0
    batch_size: int = 128
    direct_fraction: float = 0.2  # demonstrations that answer without thinking
    optimizer: OptimizerConfig = field(default_factory=lambda: OptimizerConfig(lr=3e-3, schedule=Schedule.cosine))
