"""Waiting for a verifier that fails: a step whose responses mostly have no verdict teaches nothing, or too little."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace

from lightning_cispo.configs.schema import RolloutConfig
from lightning_cispo.rewards.verdict import Problem, Verdict
from lightning_cispo.rl.types import Group, Trajectory
from lightning_cispo.train.ended import VerifiersDown

_LONGEST_PAUSE_S = 60.0
_TICK_S = 0.2

Judge = Callable[[list[tuple[Problem, Trajectory]]], Sequence[Verdict]]
_Place = tuple[int, int]  # of a response: its group, and where it is in it


def settled(
    groups: list[Group],
    options: RolloutConfig,
    judge: Judge,
    say: Callable[[str], None],
    check: Callable[[], None],
    first_pause_s: float = 1.0,
) -> list[Group]:
    """The groups, with at most `options.max_unjudged` of their responses left without a verdict.

    Beyond that share one response of each verifier that failed is judged again after 1, 2, 4 ... seconds; all of them
    once each of these has a verdict. `judge` judges anew, `say` prints a line, `check` is called often and may raise.
    Raises VerifiersDown after `options.wait_for_verifier_s` seconds.
    """
    total = sum(len(group.trajectories) for group in groups)
    began, pause = time.monotonic(), first_pause_s
    while len(failed := _unjudged(groups)) > options.max_unjudged * total:
        left = options.wait_for_verifier_s - (time.monotonic() - began)
        what = _described(groups, failed, total)
        if left <= 0:
            raise VerifiersDown(f"{what}; waited {options.wait_for_verifier_s:g} s (rollout.wait_for_verifier_s)")
        if pause == first_pause_s:
            say(f"{what}; trying again for up to {options.wait_for_verifier_s:g} s")
        _sleep(min(pause, left), check)
        pause = min(2 * pause, _LONGEST_PAUSE_S)
        probes = list({groups[g].prompt.problem.verifier: (g, t) for g, t in reversed(failed)}.values())
        groups = _judged_anew(groups, probes, judge)
        if all(groups[g].trajectories[t].verdict.reward is not None for g, t in probes):
            groups = _judged_anew(groups, _unjudged(groups), judge)
    if pause > first_pause_s:
        say(f"verdicts are there again after {time.monotonic() - began:.0f} s")
    return groups


def _unjudged(groups: list[Group]) -> list[_Place]:
    """The responses without a verdict: their verifier's infrastructure failed."""
    return [
        (g, t)
        for g, group in enumerate(groups)
        for t, trajectory in enumerate(group.trajectories)
        if trajectory.verdict.reward is None
    ]


def _described(groups: list[Group], failed: list[_Place], total: int) -> str:
    """How many verdicts failed, whose, and what the verifier said that failed most."""
    verifiers = Counter(groups[g].prompt.problem.verifier for g, _ in failed)
    name = verifiers.most_common(1)[0][0]
    error = next(
        groups[g].trajectories[t].verdict.error for g, t in failed if groups[g].prompt.problem.verifier == name
    )
    others = f" and {len(verifiers) - 1} more" if len(verifiers) > 1 else ""
    said = " ".join(error.split()) or "no reason given"
    return f"{len(failed)} of {total} verdicts failed, verifier {name}{others}: {said[:300]}"


def _sleep(seconds: float, check: Callable[[], None]) -> None:
    until = time.monotonic() + seconds
    check()
    while (left := until - time.monotonic()) > 0:
        time.sleep(min(left, _TICK_S))
        check()


def _judged_anew(groups: list[Group], places: list[_Place], judge: Judge) -> list[Group]:
    pairs = [(groups[g].prompt.problem, groups[g].trajectories[t]) for g, t in places]
    trajectories = [list(group.trajectories) for group in groups]
    for (g, t), verdict in zip(places, judge(pairs), strict=True):
        trajectories[g][t] = replace(trajectories[g][t], verdict=verdict)
    return [replace(group, trajectories=those) for group, those in zip(groups, trajectories, strict=True)]
