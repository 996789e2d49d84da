"""Difficulty that follows the verdicts: levels move, old problems don't count, a checkpoint brings them back."""

from __future__ import annotations

import json

import numpy as np

from lightning_cispo.configs.schema import CurriculumConfig, DataConfig, TaskConfig
from lightning_cispo.model.tokenizer import load_tokenizer
from lightning_cispo.rewards.verdict import Status, Verdict
from lightning_cispo.rl.prompts import PromptStream, held_out_prompts, training_stream
from lightning_cispo.rl.types import Group, Prompt, Trajectory

COURSE = CurriculumConfig(least=1, most=3, window=8, raise_at=0.75)
DATA = DataConfig(tasks=[TaskConfig("puzzle_dyck", 1.0, {}, COURSE), TaskConfig("puzzle_dyck", 1.0, {"difficulty": 0})])


def stream() -> PromptStream:
    return training_stream(DATA, load_tokenizer("bytes"), 0)


def judged(prompt: Prompt, correct: bool, masked: bool = False) -> Group:
    verdict = Verdict(None if masked else float(correct), correct, Status.passed)
    nothing = np.zeros(0)
    return Group(prompt, [Trajectory(nothing, nothing, nothing, nothing, "eos", "", verdict, i) for i in range(4)])


def levels(prompts: list[Prompt]) -> set[int]:
    return {prompt.problem.entry["course"][1] for prompt in prompts if "course" in prompt.problem.entry}


def test_a_level_rises_with_the_pass_rate_and_is_saved() -> None:
    prompts = stream()
    first = prompts.take(12)
    assert levels(first) == {1}
    asked = [prompt for prompt in first if "course" in prompt.problem.entry]
    assert 0 < len(asked) < len(first)  # the other task has none
    assert prompts.courses.record([judged(asked[0], True, masked=True)] * 9) == {"curriculum/puzzle_dyck/level": 1.0}
    right = [judged(prompt, True) for prompt in asked[:2]]
    assert prompts.courses.record(right) == {"curriculum/puzzle_dyck/level": 2.0}
    assert levels(prompts.take(12)) == {2}
    prompts.courses.record([judged(prompt, True) for prompt in asked] * 9)  # asked before the change
    assert levels(prompts.take(12)) == {2}
    again = stream()
    again.position = prompts.position
    again.courses.restore(json.loads(json.dumps(prompts.courses.state())))
    assert [p.id for p in again.take(12)] == [p.id for p in prompts.take(12)]


def test_evaluation_keeps_to_the_parameters() -> None:
    assert levels(held_out_prompts(DATA, load_tokenizer("bytes"), 5)) == set()
