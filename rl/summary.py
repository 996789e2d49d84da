"""What a batch of groups looks like, as metrics."""

from __future__ import annotations

import re

import numpy as np

from lightning_cispo.rl.accuracy import Estimate, estimates
from lightning_cispo.rl.advantages import scored
from lightning_cispo.rl.types import Group

_THOUGHT = re.compile(r"<think>(.*?)(?:</think>|$)", re.DOTALL)


def thought(text: str) -> str:
    """What stands in a response's think block, closed or not; empty without one."""
    match = _THOUGHT.search(text)
    return match.group(1).strip() if match else ""


def response_metrics(groups: list[Group]) -> dict[str, float]:
    """`reward/...` over the judged responses, `response/...` over all of them."""
    trajectories = [t for group in groups for t in group.trajectories]
    judged = [t for t in trajectories if t.verdict.reward is not None]
    lengths = np.array([len(t.tokens_T) for t in trajectories])
    metrics = {
        "response/tokens_mean": float(lengths.mean()),
        "response/tokens_p50": float(np.quantile(lengths, 0.5)),
        "response/tokens_p99": float(np.quantile(lengths, 0.99)),
        "response/truncated": _share(t.stop == "length" for t in trajectories),
        "response/repetition": _share(t.stop == "repetition" for t in trajectories),
        "response/interrupted": _share(not t.loss_mask_T.all() for t in trajectories),
        "response/thinking": _share(bool(thought(t.text)) for t in trajectories),
        "groups/masked": float(len(trajectories) - len(judged)),
    }
    if judged:
        for part in sorted({part for t in judged for part in t.verdict.parts} - {""}):
            metrics[f"reward/{part}"] = float(np.mean([t.verdict.parts.get(part, 0.0) for t in judged]))
        # After the parts: one of the same name does not take these places.
        metrics["reward/mean"] = float(np.mean([t.verdict.reward for t in judged]))
        metrics["reward/correct"] = _share(t.verdict.correct for t in judged)
    return metrics


def evaluation_metrics(groups: list[Group]) -> dict[str, float]:
    """`eval/...` of held-out problems. Responses without a verdict count for neither side; without any, no `pass@`."""
    found = accuracy(groups)
    trajectories = [t for group in groups for t in group.trajectories]
    judged = [group for group in groups if scored(group)]
    metrics = {
        "eval/problems": float(len(judged)),
        "eval/masked": float(sum(t.verdict.reward is None for t in trajectories)),
        **{f"eval/{name}": estimate.value for name, estimate in found.items()},
    }
    if trajectories:
        metrics["eval/tokens_mean"] = float(np.mean([len(t.tokens_T) for t in trajectories]))
        metrics["eval/truncated"] = _share(t.stop == "length" for t in trajectories)
        metrics["eval/repetition"] = _share(t.stop == "repetition" for t in trajectories)
        metrics["eval/thinking"] = _share(bool(thought(t.text)) for t in trajectories)
    if judged:
        metrics |= {"eval/pass@1_low": found["pass@1"].low, "eval/pass@1_high": found["pass@1"].high}
    for task in sorted({group.prompt.problem.task for group in judged}):
        of_task = [group for group in judged if group.prompt.problem.task == task]
        metrics[f"eval/task/{task}/pass@1"] = accuracy(of_task)["pass@1"].value
    return metrics


def accuracy(groups: list[Group]) -> dict[str, Estimate]:
    """pass@1 and its kin over the responses that have a verdict; empty if none has."""
    samples = max((len(group.trajectories) for group in groups), default=0)
    return estimates([[t.verdict.correct for t in scored(group)] for group in groups], samples)


def verifier_error(groups: list[Group]) -> str:
    """What the first verifier said that failed; empty where none did."""
    trajectories = (t for group in groups for t in group.trajectories)
    return next((t.verdict.error or "no reason given" for t in trajectories if t.verdict.reward is None), "")


def _share(flags) -> float:
    return float(np.mean([float(flag) for flag in flags]))
