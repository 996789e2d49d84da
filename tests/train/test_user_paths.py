"""What a user types in a folder of their own, as the README has it, and the lines that refuse what can't work."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from lightning_cispo.configs.errors import ConfigError
from lightning_cispo.configs.load import load_config
from lightning_cispo.configs.schema import DataConfig
from lightning_cispo.rl.data.names import task_name
from lightning_cispo.rl.data.sources import open_sources
from lightning_cispo.train.preflight import preflight
from lightning_cispo.train.sft import _something_to_do
from tests.train.programs import Program, metrics, run

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
    out = run("evaluate", *given, cwd=folder)
    assert "5 problems" in out and "pass@1" in out


def test_an_evaluation_stops_at_once(folder, tmp_path):
    """There is nothing to go on with: no checkpoint is promised."""
    endless = f"checkpoint={folder / 'runs/gsm8k'}", "data=arithmetic", "evaluation.samples=3000"
    rest = "sampling.max_tokens=200", f"runs_dir={tmp_path}", "tracking.mode=disabled"
    program = Program("evaluate", *endless, *rest)
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
    assert task_name(str(folder / "x.jsonl")) == "my-own-data"
    monkeypatch.chdir(folder)
    assert task_name("x.jsonl") == "my-own-data"
    assert task_name("openai/gsm8k") == "openai/gsm8k"


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
        open_sources(DataConfig(train=["nobody/has-this"]))


def test_ctrl_c_twice_is_one_line(tmp_path):
    program = Program("train", "experiment=smoke", "steps=100000", f"runs_dir={tmp_path}", "tracking.mode=disabled")
    program.wait_for(" 2/100000")
    os.kill(program.process.pid, signal.SIGINT)
    os.kill(program.process.pid, signal.SIGINT)
    code, _, err = program.finish()
    assert code == 130 and "Traceback" not in err, err[-3000:]
    assert program.leftovers() == []


OWN = {
    "train.py": "raise ImportError('the user\\'s train.py')",
    "model.py": "raise ImportError('the user\\'s model.py')",
    "rewards.py": "raise ImportError('the user\\'s rewards.py')",
    "datasets.py": "raise ImportError('the user\\'s datasets.py')",
    "mine.py": "def judge(problem, response):\n    return float(len(response.text) % 2)\n",
}


def test_a_folder_with_modules_named_like_rooms_and_libraries(tmp_path):
    """`cispo` puts the working folder last on the path: its verifier is found, its datasets.py shadows nothing."""
    for name, text in OWN.items():
        (tmp_path / name).write_text(text)
    rows(tmp_path / "train.jsonl", 30)
    given = "experiment=gsm8k", "data.train=train.jsonl", "data.verifier=mine:judge", "steps=1", *SMALL
    command = [Path(sys.executable).with_name("cispo"), "train", *given, "algorithm.dynamic_sampling=false"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert any(line.get("reward/mean", 0) > 0 for line in metrics(tmp_path / "runs/gsm8k"))
    (tmp_path / "datasets.py").unlink()  # Python itself puts the folder first for -m
    module = [sys.executable, "-m", "lightning_cispo.train", *given, "name=again", "dry_run=true"]
    done = subprocess.run(module, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "runs/again, 1 steps" in done.stdout, done.stderr
