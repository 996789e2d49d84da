"""What a user types in a folder of their own, as the README has it, and the lines that refuse what can't work."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest

from configs.errors import ConfigError
from rl.prompts import _task_name
from tests.train.programs import Program, metrics, run
from train.lock import sole_user

SMALL = (
    "model.hidden_size=32 model.intermediate_size=32 model.num_hidden_layers=4 model.softmax_every=4 "
    "model.num_attention_heads=2 model.num_key_value_heads=1 model.head_dim=16 sampling.max_tokens=8 "
    "learner.threads=1 rollout.threads=1 rollout.slots=16 tracking.mode=disabled"
).split()


def rows(path: Path, count: int) -> None:
    lines = [json.dumps({"question": f"What is {i} + 1?", "answer": f"So\n#### {i + 1}"}) for i in range(count)]
    path.write_text("\n".join(lines) + "\n")


def refused(module: str, *overrides: str, cwd: Path) -> str:
    """The last line of a program that ends with exit code 2."""
    program = Program(module, *overrides, cwd=cwd)
    code, out, err = program.finish()
    assert code == 2, f"exit {code}\n{out}\n{err[-3000:]}"
    assert program.leftovers() == [] and "Traceback" not in err
    return err.splitlines()[-1]


def test_train_and_evaluate_on_files_of_the_working_folder(tmp_path):
    rows(tmp_path / "train.jsonl", 30)
    rows(tmp_path / "test.jsonl", 5)
    run("train", "experiment=gsm8k", "data.train=train.jsonl", "steps=1", *SMALL, cwd=tmp_path)
    assert any(f"eval/task/{tmp_path.name}/pass@1" in line for line in metrics(tmp_path / "runs/gsm8k"))
    out = run(
        "train.evaluate",
        "checkpoint=runs/gsm8k",
        "data=test.jsonl",
        'data.answer_pattern="####\\s*(.+)"',
        "sampling.max_tokens=8",
        "tracking.mode=disabled",
        cwd=tmp_path,
    )
    assert "5 problems" in out and "pass@1" in out


def test_folders_with_spaces_name_tasks_that_metrics_can_have(tmp_path, monkeypatch):
    folder = tmp_path / "my <own> data"
    folder.mkdir()
    (folder / "x.jsonl").touch()
    assert _task_name(str(folder / "x.jsonl")) == "my-own-data"
    monkeypatch.chdir(folder)
    assert _task_name("x.jsonl") == "my-own-data"
    assert _task_name("openai/gsm8k") == "openai/gsm8k"


def test_what_cannot_work_is_one_line(tmp_path):
    rows(tmp_path / "few.jsonl", 3)
    rows(tmp_path / "test.jsonl", 3)
    few = "experiment=gsm8k", "data.train=few.jsonl", "data.eval=test.jsonl", *SMALL
    said = refused("train", *few, cwd=tmp_path)
    assert said.startswith("error: data.train=few.jsonl: data: only 0 of 4 distinct prompts found")
    said = refused("train", "experiment=gsm8k", "data.train=nobody/has-this", *SMALL, cwd=tmp_path)
    assert said.startswith("error: data.train=nobody/has-this: ") and "neither a file here nor a data set" in said
    said = refused("train.sft", "tracking.mode=disabled", cwd=tmp_path)
    assert said.startswith("error: warm_start.steps=0: ")
    said = refused("train", "experiment=smoke", "sampling.thinking_tokens=13", cwd=tmp_path)
    assert said.startswith("error: sampling.thinking_tokens=13: with the 4 tokens of sampling.closing_text")


def test_a_run_folder_has_one_user(tmp_path):
    with sole_user(tmp_path):
        with pytest.raises(ConfigError, match="another program is at work"), sole_user(tmp_path):
            pass
    with sole_user(tmp_path):
        pass


def test_an_evaluation_stops_at_once(tmp_path):
    """There is nothing to go on with: no checkpoint is promised."""
    run("train", "experiment=smoke", "steps=1", f"runs_dir={tmp_path}", "tracking.mode=disabled")
    endless = (
        f"checkpoint={tmp_path / 'smoke'}",
        "data=arithmetic",
        "evaluation.samples=3000",
        "sampling.max_tokens=200",
    )
    program = Program("train.evaluate", *endless, f"runs_dir={tmp_path}", "tracking.mode=disabled")
    program.wait_for("run folder")
    while not list(tmp_path.glob("evaluate-*/config.yaml")):
        assert program.process.poll() is None
    program.process.send_signal(signal.SIGTERM)
    code, out, err = program.finish(timeout=120)
    assert code in (143, 15) and "resume=" not in out, (code, out, err[-2000:])
    assert program.leftovers() == [] and "Traceback" not in err


def test_ctrl_c_twice_is_one_line(tmp_path):
    program = Program("train", "experiment=smoke", "steps=100000", f"runs_dir={tmp_path}", "tracking.mode=disabled")
    program.wait_for(" 2/100000")
    os.kill(program.process.pid, signal.SIGINT)
    os.kill(program.process.pid, signal.SIGINT)
    code, _, err = program.finish()
    assert code == 130 and "Traceback" not in err, err[-3000:]
    assert program.leftovers() == []
