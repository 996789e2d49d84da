"""Difficulty that follows the verdicts: levels move, old problems don't count, a checkpoint brings them back."""

from __future__ import annotations

import json

import numpy as np
import pytest

from lightning_cispo.configs.schema import CurriculumConfig, DataConfig, PromptStyle, TaskConfig
from lightning_cispo.model.tokenizer import load_tokenizer
from lightning_cispo.rewards.verdict import Status, Verdict
from lightning_cispo.rl.held_out import held_out_prompts
from lightning_cispo.rl.prompts import PromptStream, training_stream
from lightning_cispo.rl.types import Group, Prompt, Trajectory
from lightning_cispo.train.metrics import describe

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
    assert levels(held_out_prompts(DATA, load_tokenizer("bytes"), 5).prompts) == set()


@pytest.fixture
def impatient(monkeypatch) -> None:
    monkeypatch.setattr("lightning_cispo.rl.curriculum._PATIENCE", 200)
    monkeypatch.setattr("lightning_cispo.rl.prompts.PATIENCE", 400)


# Of 60 numbers, those from `min_n` on: a level of 59 has two problems.
FEW = TaskConfig(
    "count_bits", 1.0, {"max_n": 60}, CurriculumConfig("min_n", least=1, most=59, step=29, raise_at=0.75, window=4)
)


def raised(prompts: PromptStream, times: int) -> None:
    for _ in range(times):
        asked = next(p for p in prompts.take(12) if p.problem.entry.get("course", [None])[0] == 0)
        prompts.courses.record([judged(asked, True)])


def few(*more: TaskConfig) -> PromptStream:
    return training_stream(DataConfig(tasks=[FEW, *more]), load_tokenizer("bytes"), 0)


def test_a_level_with_too_few_problems_is_given_up_for_good(impatient, caplog) -> None:
    prompts = few()
    raised(prompts, 2)
    assert prompts.courses.curricula[0].level == 59
    saved, position = json.loads(json.dumps(prompts.courses.state())), prompts.position
    found = prompts.take(12)
    assert len(found) == 12 and levels(found) <= {59, 30} and 30 in levels(found)
    assert "count_bits: level 59 has too few problems; the curriculum stays at 30 or below" in caplog.text
    prompts.courses.record([judged(p, True) for p in found if p.problem.entry["course"][1] == 30] * 9)
    assert levels(prompts.take(12)) == {30}, "it does not rise to that level again"
    resumed = few()
    resumed.position = position
    resumed.courses.restore(saved)
    assert [p.id for p in resumed.take(12)] == [p.id for p in found], "and so it does after a resume"
    resumed.courses.restore(prompts.courses.state())
    assert resumed.courses.curricula[0].most == 30


def test_too_few_problems_at_the_lowest_level_are_an_error(impatient) -> None:
    with pytest.raises(ValueError, match="of 200 distinct prompts found"):
        few().take(200)


def test_a_level_without_a_usable_problem_is_given_up_beside_other_tasks(impatient) -> None:
    long = CurriculumConfig("min_digits", least=1, most=40, step=39, raise_at=0.75, window=4)
    task = TaskConfig("chain_sum", 1.0, {"max_digits": 40, "min_terms": 2, "max_terms": 2}, long)
    data = DataConfig(tasks=[task, TaskConfig("gcd")], max_prompt_tokens=60, prompt_style=PromptStyle.compact)
    prompts = training_stream(data, load_tokenizer("bytes"), 0)
    raised(prompts, 1)
    course = prompts.courses.curricula[0]
    assert course.level == 40  # at which every prompt is too long
    assert levels(prompts.take(20)) == set()
    before = prompts.courses.state()
    assert before[0][4] > 5, "what was in vain is saved"
    prompts.take(300)
    assert course.level == course.most == 1 and levels(prompts.take(20)) == {1}
    prompts.courses.restore(before)
    assert prompts.courses.state() != before and course.level == 1, "and the highest level stays"


def test_curricula_of_one_family_have_metrics_of_their_own() -> None:
    both = training_stream(DataConfig(tasks=[FEW, FEW, DATA.tasks[0]]), load_tokenizer("bytes"), 0)
    both.courses.curricula[1].level = 30
    assert both.courses.record([]) == {
        "curriculum/count_bits-0/level": 1.0,
        "curriculum/count_bits-1/level": 30.0,
        "curriculum/puzzle_dyck/level": 1.0,
    }
    for name in both.courses.record([]):
        assert describe(name).name == "curriculum/<task>/level"


def test_states_of_older_checkpoints_are_read() -> None:
    prompts = few()
    prompts.courses.restore([[0, 30, [True, False]]])
    assert prompts.courses.state() == [[0, 30, [True, False], 59, 0]]
