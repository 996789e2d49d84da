"""What a user types in a folder of their own, as the README has it, and the lines that refuse what can't work."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest

from configs.errors import ConfigError
from configs.load import load_config
from configs.schema import DataConfig
from rl.prompts import _task_name, read_rows
from tests.train.programs import Program, metrics, run
from train.lock import sole_user
from train.preflight import preflight
from train.sft import _something_to_do

SMALL = (
    "model.hidden_size=32 model.intermediate_size=32 model.num_hidden_layers=4 model.softmax_every=4 "
    "model.num_attention_heads=2 model.num_key_value_heads=1 model.head_dim=16 sampling.max_tokens=8 "
    "learner.threads=1 rollout.threads=1 rollout.slots=16 tracking.mode=disabled"
).split()


def rows(path: Path, count: int) -> None:
    lines = [json.dumps({"question": f"What is {i} + 1?", "answer": f"So\n#### {i + 1}"}) for i in range(count)]
    path.write_text("\n".join(lines) + "\n")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A user's own, with two data files and a run on one of them."""
    folder = tmp_path_factory.mktemp("own")
    rows(folder / "train.jsonl", 30)
    rows(folder / "test.jsonl", 5)
    run("train", "experiment=gsm8k", "data.train=train.jsonl", "steps=1", *SMALL, cwd=folder)
    return folder


def test_train_and_evaluate_on_files_of_the_working_folder(folder):
    assert any(f"eval/task/{folder.name}/pass@1" in line for line in metrics(folder / "runs/gsm8k"))
    pattern = 'data.answer_pattern="####\\s*(.+)"'
    given = "checkpoint=runs/gsm8k", "data=test.jsonl", pattern, "sampling.max_tokens=8", "tracking.mode=disabled"
    out = run("train.evaluate", *given, cwd=folder)
    assert "5 problems" in out and "pass@1" in out


def test_an_evaluation_stops_at_once(folder, tmp_path):
    """There is nothing to go on with: no checkpoint is promised."""
    endless = f"checkpoint={folder / 'runs/gsm8k'}", "data=arithmetic", "evaluation.samples=3000"
    rest = "sampling.max_tokens=200", f"runs_dir={tmp_path}", "tracking.mode=disabled"
    program = Program("train.evaluate", *endless, *rest)
    program.wait_for("run folder")
    program.process.send_signal(signal.SIGTERM)
    code, out, err = program.finish(timeout=120)
    # Ray, while it starts, has a handler of its own.
    assert code in (143, 15) and "resume=" not in out, (code, out, err[-2000:])
    assert program.leftovers() == [] and "Traceback" not in err


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
    program = Program("train", *few, cwd=tmp_path)
    code, _, err = program.finish()
    said = err.splitlines()[-1]
    assert code == 2 and said.startswith("error: data.train=few.jsonl: data: only 0 of 4 distinct prompts found"), err
    assert program.leftovers() == [] and "Traceback" not in err


def test_settings_that_leave_nothing_to_do_or_to_say_are_refused():
    with pytest.raises(ConfigError, match="warm_start.steps=0: there is nothing to do"):
        _something_to_do(load_config([]))
    with pytest.raises(ConfigError, match="thinking_tokens=13: with the 4 tokens of sampling.closing_text"):
        preflight(load_config(["experiment=smoke", "sampling.thinking_tokens=13"]))
    with pytest.raises(ValueError, match="nobody/has-this: neither a file here nor a data set of the hub"):
        read_rows(DataConfig(), "nobody/has-this", "train")


def test_a_run_folder_has_one_user(tmp_path):
    with sole_user(tmp_path):
        with pytest.raises(ConfigError, match="another program is at work"), sole_user(tmp_path):
            pass
    with sole_user(tmp_path):
        pass


def test_ctrl_c_twice_is_one_line(tmp_path):
    program = Program("train", "experiment=smoke", "steps=100000", f"runs_dir={tmp_path}", "tracking.mode=disabled")
    program.wait_for(" 2/100000")
    os.kill(program.process.pid, signal.SIGINT)
    os.kill(program.process.pid, signal.SIGINT)
    code, _, err = program.finish()
    assert code == 130 and "Traceback" not in err, err[-3000:]
    assert program.leftovers() == []
