"""What passes between the rooms during a step: prompts, trajectories, groups."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lightning_cispo.rewards.verdict import Problem, Verdict


@dataclass(frozen=True)
class Prompt:
    """A problem as the policy reads it. `id` is a stable hash of the content and keys all randomness."""

    id: int
    problem: Problem
    tokens_T: np.ndarray  # int32


@dataclass(frozen=True)
class Trajectory:
    """One response. Every array but the last has the length of the response, its stop token included."""

    tokens_T: np.ndarray  # int32
    loss_mask_T: np.ndarray  # bool: the policy chose this token
    sampler_logprobs_T: np.ndarray  # float32, at the sampling temperature
    versions_T: np.ndarray  # int32, the weight version that sampled it
    stop: str  # eos, length, repetition, interrupted
    text: str
    verdict: Verdict
    sample: int  # index within the group
    # uint8 or int16: experts of every token that the sampler read, the prompt's too; the last one went nowhere.
    routing_TLK: np.ndarray | None = None


@dataclass(frozen=True)
class Group:
    """All responses to one prompt."""

    prompt: Prompt
    trajectories: list[Trajectory]
