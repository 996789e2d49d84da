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
