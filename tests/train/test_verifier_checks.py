"""What preflight says of verifiers' data and of curricula before anything starts."""

from __future__ import annotations

import json

import pytest

from lightning_cispo.configs.errors import ConfigError
from lightning_cispo.configs.load import load_config
from lightning_cispo.train.preflight import preflight


def refusal(*overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        preflight(load_config(overrides))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_tests_of_code_are_checked_with_their_row(tmp_path, monkeypatch):
    file = tmp_path / "code.jsonl"
    rows = [{"question": "f", "answer": json.dumps({"tests": [test]})} for test in ("assert f(1)", "assert (")]
    overrides = ["experiment=gsm8k", f"data.train={file}", f"runs_dir={tmp_path}", "data.answer_pattern=null"]
    overrides.append("data.verifier=code")
    file.write_text(json.dumps(rows[0]) + "\n")
    preflight(load_config(overrides))
    file.write_text("\n".join(map(json.dumps, rows)))
    assert "line 2: answer: a test is no Python" in refusal(*overrides)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "no bwrap on the PATH" in refusal(*overrides, "rewards.code.min_isolation=bwrap")


def test_a_judge_needs_an_endpoint():
    assert refusal("experiment=gsm8k", "data.verifier=judge").startswith("rewards.judge.url=null")


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["rewards.judge.url=localhost"], "rewards.judge.url=localhost: must be http(s)://host"),
        (
            ["rewards.judge.template=nowhere"],
            "rewards.judge.template=nowhere: neither a name in configs/judge nor a file",
        ),
        (
            ["rewards.judge.pairwise=true", "rewards.judge.template=grades"],
            "rewards.judge.template=grades: has $reference",
        ),
        (["rewards.judge.key_variable=BROKEN_KEY"], "rewards.judge.key_variable=BROKEN_KEY: the value of $BROKEN_KEY"),
        (["rewards.judge.bias_window=9"], "rewards.judge.bias_window=9: must be at least 10"),
        (["rewards.judge.bias_threshold=1.5"], "rewards.judge.bias_threshold=1.5: must be between 0 and 1"),
    ],
)
def test_a_judge_that_could_not_be_asked_is_refused(tmp_path, monkeypatch, overrides, said):
    file = tmp_path / "data.jsonl"
    file.write_text('{"question": "q", "answer": "a"}\n')
    monkeypatch.setenv("BROKEN_KEY", "sk-4711\nsecond line")
    given = ["experiment=gsm8k", f"data.train={file}", f"runs_dir={tmp_path}", "data.answer_pattern=null"]
    given += ["data.verifier=judge", "rewards.judge.url=http://localhost:8000/v1", "rewards.judge.model=m"]
    preflight(load_config([*given, "rewards.judge.pairwise=true"]))
    found = refusal(*given, *overrides)
    assert said in found and "4711" not in found


@pytest.mark.parametrize(
    ("curriculum", "said"),
    [
        ("{most: 11}", "difficulty=11 must be an int from 0 to 10"),
        ("{parameter: size}", "no parameter 'size'"),
        ("{least: 5, most: 2}", "least=5, most=2"),
        ("{raise_at: 0.1, lower_at: 0.5}", "lower_at=0.5 must be below raise_at=0.1"),
    ],
)
def test_a_curriculum_the_family_cannot_follow(tmp_path, curriculum, said):
    overrides = [f"data.tasks=[{{family: puzzle_dyck, curriculum: {curriculum}}}]", f"runs_dir={tmp_path}"]
    found = refusal("experiment=quickstart", *overrides, "data.prompt_style=question", "warm_start.steps=0")
    assert found.startswith("data.tasks.0: puzzle_dyck") and said in found
