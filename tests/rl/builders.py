"""Small groups and samples for tests."""

from __future__ import annotations

import numpy as np

from lightning_cispo.rewards.verdict import Problem, Status, Verdict
from lightning_cispo.rl.advantages import Sample
from lightning_cispo.rl.types import Group, Prompt, Trajectory


def trajectory(reward: float | None, length: int = 3, sample: int = 0, correct: bool | None = None) -> Trajectory:
    right = bool(reward and reward > 0) if correct is None else correct
    status = Status.infra_error if reward is None else Status.passed if right else Status.failed
    return Trajectory(
        tokens_T=np.arange(length, dtype=np.int32),
        loss_mask_T=np.ones(length, bool),
        sampler_logprobs_T=np.full(length, -0.5, np.float32),
        versions_T=np.zeros(length, np.int32),
        stop="eos",
        text="x" * length,
        verdict=Verdict(reward, right, status),
        sample=sample,
    )


def group(rewards: list[float | None], lengths: list[int] | None = None, prompt: int = 0) -> Group:
    lengths = lengths or [3] * len(rewards)
    problem = Problem("1+1=", "2", "exact", "sums")
    return Group(
        Prompt(prompt, problem, np.array([7, 8], np.int32)),
        [trajectory(reward, length, i) for i, (reward, length) in enumerate(zip(rewards, lengths, strict=True))],
    )


def samples(lengths: list[int], vocabulary: int = 64, seed: int = 0) -> list[Sample]:
    """Random sequences whose first two tokens are the prompt."""
    rng = np.random.default_rng(seed)
    made = []
    for length in lengths:
        mask = np.arange(length) >= 2
        sampler = np.where(mask, rng.uniform(-5, -3, length), 0).astype(np.float32)
        tokens = rng.integers(0, vocabulary, length).astype(np.int32)
        made.append(Sample(tokens, mask, sampler, sampler, float(rng.normal()), 1 / sum(lengths)))
    return made
