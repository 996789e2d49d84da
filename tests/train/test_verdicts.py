"""Waiting for verifiers that fail, without waiting: a step's verdicts, and what becomes of the step."""

from __future__ import annotations

from dataclasses import replace

import pytest

from lightning_cispo.configs.check import problems
from lightning_cispo.configs.schema import RolloutConfig, RunConfig
from lightning_cispo.rewards.verdict import Status, Verdict
from lightning_cispo.rl.types import Group
from lightning_cispo.train.ended import VerifiersDown
from lightning_cispo.train.interrupt import Stopped
from lightning_cispo.train.verdicts import settled
from tests.rl.builders import group

DOWN = Verdict(None, False, Status.infra_error, {}, "no verdict after 5 attempts:\n HTTP 503")
RIGHT = Verdict(1.0, True, Status.passed)


class Judge:
    """Fails for the first `failures` calls; keeps what it was asked."""

    def __init__(self, failures: int = 0, verdict: Verdict = RIGHT):
        self.failures, self.verdict, self.asked = failures, verdict, []

    def __call__(self, pairs):
        self.asked.append(pairs)
        self.failures -= 1
        return [DOWN if self.failures >= 0 else self.verdict] * len(pairs)


def with_errors(groups: list[Group], verifiers: list[str]) -> list[Group]:
    """Failed verdicts with their error; the groups' verifiers by name."""
    return [
        replace(
            g,
            prompt=replace(g.prompt, problem=replace(g.prompt.problem, verifier=name)),
            trajectories=[replace(t, verdict=DOWN if t.verdict.reward is None else t.verdict) for t in g.trajectories],
        )
        for g, name in zip(groups, verifiers, strict=True)
    ]


def settle(groups: list[Group], judge: Judge, wait_s: float = 30.0, share: float = 0.5, check=lambda: None):
    said: list[str] = []
    options = RolloutConfig(max_unjudged=share, wait_for_verifier_s=wait_s)
    return settled(groups, options, judge, said.append, check, first_pause_s=0.001), said


def test_a_share_within_the_bound_is_left_as_it_is():
    groups = with_errors([group([None, 1.0]), group([None, 0.0])], ["math", "math"])
    judge = Judge()
    found, said = settle(groups, judge)
    assert found == groups and not judge.asked and not said
    settle(with_errors([group([None, None])], ["math"]), judge, share=1.0)
    assert not judge.asked, "with a bound of 1 the run never waits"


def test_verdicts_come_once_the_verifier_answers():
    """One response is tried until it is judged; then all that failed, and only these."""
    groups = with_errors([group([None, 1.0, None]), group([None, 0.0, None])], ["judge", "judge"])
    judge = Judge(failures=3)
    found, said = settle(groups, judge)
    assert [len(pairs) for pairs in judge.asked] == [1, 1, 1, 1, 3]
    assert [[t.verdict.reward for t in g.trajectories] for g in found] == [[1.0] * 3, [1.0, 0.0, 1.0]]
    assert [t.tokens_T for t in found[0].trajectories] == [t.tokens_T for t in groups[0].trajectories]
    assert said[0] == (
        "4 of 6 verdicts failed, verifier judge: no verdict after 5 attempts: HTTP 503; trying again for up to 30 s"
    )
    assert said[1:] == ["verdicts are there again after 0 s"]


def test_a_verifier_that_stays_away_is_named():
    groups = with_errors([group([None, None]), group([None, None, None])], ["code", "mine:judge"])
    with pytest.raises(VerifiersDown) as ended:
        settle(groups, Judge(failures=10**6), wait_s=0.01)
    assert str(ended.value) == (
        "5 of 5 verdicts failed, verifier mine:judge and 1 more: no verdict after 5 attempts: HTTP 503; "
        "waited 0.01 s (rollout.wait_for_verifier_s)"
    )
    judge = Judge()
    with pytest.raises(VerifiersDown, match="waited 0 s"):
        settle(groups, judge, wait_s=0)
    assert not judge.asked


def test_each_verifier_is_tried_by_itself():
    """One that works again does not have the other's responses judged, which still fails."""
    groups = with_errors([group([None, None]), group([None, None])], ["code", "judge"])

    class OneOfTwo(Judge):
        def __call__(self, pairs):
            self.asked.append(pairs)
            return [RIGHT if problem.verifier == "code" else DOWN for problem, _ in pairs]

    judge = OneOfTwo()
    found, _ = settle(groups, judge)
    assert sorted(problem.verifier for problem, _ in judge.asked[0]) == ["code", "judge"]
    assert sum(t.verdict.reward is None for g in found for t in g.trajectories) == 2, "half is within the bound"


def test_a_stop_ends_the_wait():
    def check() -> None:
        raise Stopped("SIGTERM")

    with pytest.raises(Stopped):
        settle(with_errors([group([None])], ["math"]), Judge(), check=check)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"max_unjudged": -0.1}, "rollout.max_unjudged=-0.1: must be between 0 and 1"),
        ({"max_unjudged": 1.5}, "rollout.max_unjudged=1.5: must be between 0 and 1"),
        ({"max_unjudged": float("nan")}, "rollout.max_unjudged=nan: must be between 0 and 1"),
        ({"wait_for_verifier_s": -1.0}, "rollout.wait_for_verifier_s=-1.0: must be at least 0"),
        ({"wait_for_verifier_s": float("inf")}, "rollout.wait_for_verifier_s=inf: must be at least 0"),
    ],
)
def test_bounds_that_cannot_work_are_refused(changes, says):
    config = RunConfig()
    config.rollout = replace(config.rollout, **changes)
    assert says in list(problems(config))
