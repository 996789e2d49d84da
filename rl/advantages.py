"""From a step's groups to what the learner sums: filter, advantages, loss scales."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lightning_cispo.configs.schema import AlgorithmConfig, Contrast, Normalization
from lightning_cispo.rl.types import Group, Prompt, Trajectory

_SAME = 1e-6  # relative difference up to which rewards are equal


@dataclass(frozen=True)
class Sample:
    """One sequence as the learner sees it: prompt and response. Arrays have the whole sequence's length T."""

    tokens_T: np.ndarray  # int32
    loss_mask_T: np.ndarray  # bool: counted by the loss
    anchor_T: np.ndarray  # float32 log-probabilities under the ratio; 0 where the mask is false
    sampler_T: np.ndarray  # float32 log-probabilities of the sampler; 0 where the mask is false
    advantage: float
    scale: float  # what each of its tokens' losses is multiplied by in the optimizer step's sum
    routing_TLK: np.ndarray | None = None  # experts to keep to; the dtype's last value: none recorded


def informative(group: Group, contrast: Contrast = Contrast.reward) -> bool:
    """Return whether a group's scored responses differ in `contrast` (DAPO's dynamic sampling).

    By reward, which advantages are made of, or by raw correctness, whatever else shapes the reward.
    """
    responses = scored(group)
    if contrast is Contrast.correct:
        return len({t.verdict.correct for t in responses}) > 1
    return not equal(np.array([t.verdict.reward for t in responses], dtype=np.float64))


def scored(group: Group) -> list[Trajectory]:
    """The trajectories that have a reward; the rest failed for reasons that are not the policy's."""
    return [t for t in group.trajectories if t.verdict.reward is not None]


def equal(rewards_G: np.ndarray) -> bool:
    """Return whether rewards [G] differ by rounding at most: max - min <= 1e-6 * max |R|. True for none."""
    return not len(rewards_G) or bool(np.ptp(rewards_G) <= _SAME * np.abs(rewards_G).max())


def group_advantages(rewards_G: np.ndarray, divide_by_std: bool) -> np.ndarray:
    """(R - mean) / std over a group, population std; 0 where all rewards are `equal`. Float64 [G]."""
    if equal(rewards_G):
        return np.zeros(len(rewards_G))
    centred = rewards_G - rewards_G.mean()
    centred -= centred.mean()  # what rounding has left in the mean
    return centred / np.sqrt(np.mean(centred**2)) if divide_by_std else centred


def loss_scales(lengths: list[list[int]], normalization: Normalization, max_tokens: int) -> list[list[float]]:
    """Scale of every token of response i of group g, from counted tokens `lengths[g][i]` of one whole optimizer step.

    Known before the step is cut into micro-batches and ranks, so that the cut can't change the gradient.
    """
    responses = sum(len(group) for group in lengths)
    total = sum(map(sum, lengths))
    scales = []
    for group in lengths:
        if normalization is Normalization.prompt:
            scales.append([1 / (len(lengths) * max(1, sum(group)))] * len(group))
        elif normalization is Normalization.batch:
            scales.append([1 / max(1, total)] * len(group))
        elif normalization is Normalization.sample:
            scales.append([1 / (responses * max(1, n)) for n in group])
        else:
            scales.append([1 / (responses * max_tokens)] * len(group))
    return scales


def to_samples(groups: list[Group], config: AlgorithmConfig, max_tokens: int) -> list[Sample]:
    """All sequences of one optimizer step, with the sampler's log-probabilities as the anchor."""
    groups = [Group(group.prompt, scored(group)) for group in groups if scored(group)]
    lengths = [[int(t.loss_mask_T.sum()) for t in group.trajectories] for group in groups]
    samples = []
    for group, scales in zip(groups, loss_scales(lengths, config.normalization, max_tokens), strict=True):
        rewards = np.array([t.verdict.reward for t in group.trajectories], dtype=np.float64)
        advantages = group_advantages(rewards, config.advantage_std)
        for trajectory, advantage, scale in zip(group.trajectories, advantages, scales, strict=True):
            samples.append(_sample(group.prompt, trajectory, float(advantage), scale))
    return samples


def _sample(prompt: Prompt, trajectory: Trajectory, advantage: float, scale: float) -> Sample:
    length = len(prompt.tokens_T)
    sampler_T = np.where(trajectory.loss_mask_T, trajectory.sampler_logprobs_T, 0).astype(np.float32)
    anchor_T = np.concatenate([np.zeros(length, np.float32), sampler_T])
    return Sample(
        tokens_T=np.concatenate([prompt.tokens_T, trajectory.tokens_T]),
        loss_mask_T=np.concatenate([np.zeros(length, bool), trajectory.loss_mask_T]),
        anchor_T=anchor_T,
        sampler_T=anchor_T,
        advantage=advantage,
        scale=scale,
        routing_TLK=_whole(trajectory.routing_TLK),
    )


def _whole(routing_TLK: np.ndarray | None) -> np.ndarray | None:
    """With a row for the last token, of which nothing is recorded."""
    if routing_TLK is None:
        return None
    last_1LK = np.full_like(routing_TLK[:1], np.iinfo(routing_TLK.dtype).max)
    return np.concatenate([routing_TLK, last_1LK])
