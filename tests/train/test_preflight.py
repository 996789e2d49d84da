"""What is refused for a file, a tokenizer or a task family, by key and line, before anything starts."""

from __future__ import annotations

import importlib.util
import json
from dataclasses import asdict

import pyarrow
import pytest
from pyarrow import parquet

from lightning_cispo.configs.errors import ConfigError
from lightning_cispo.configs.load import load_config, to_yaml
from lightning_cispo.train.preflight import preflight
from lightning_cispo.train.state import RunState, save_state

GOOD = '{"question": "1+2", "answer": "so\\n#### 3"}\n'


def refusal(*overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        preflight(load_config(overrides))
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture
def with_file(tmp_path):
    """Writes a data file and gives the overrides that train on it."""

    def write(content: str, name: str = "data.jsonl") -> tuple[str, ...]:
        (tmp_path / name).write_text(content)
        return "experiment=gsm8k", f"data.train={tmp_path / name}", f"runs_dir={tmp_path}"

    return write


def test_what_is_right_passes_and_leaves_nothing(tmp_path, with_file):
    preflight(load_config(["experiment=quickstart", f"runs_dir={tmp_path}/a/b"]))
    preflight(load_config(with_file(GOOD + "\n" + GOOD)))
    assert [path.name for path in tmp_path.iterdir()] == ["data.jsonl"]


def test_a_run_followed_by_wandb_wants_it_installed(tmp_path, monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "wandb" else found(name))
    common = "experiment=quickstart", f"runs_dir={tmp_path}"
    assert refusal(*common).startswith("tracking.mode=offline: wandb is not installed")
    preflight(load_config([*common, "tracking.mode=disabled"]))


def test_real_gsm8k_passes(tmp_path, shared):
    preflight(load_config(["experiment=gsm8k", f"data.train={shared}/data/gsm8k/train.jsonl", f"runs_dir={tmp_path}"]))


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        ('{"question": "1+2"', "line 3: not JSON"),
        ('{"question": "1+2"}', "line 3: no 'answer' (data.answer_key); it has question"),
        ('{"answer": "#### 3"}', "line 3: no 'question' (data.prompt_key)"),
        ("[1, 2]", "line 3: must be an object"),
        ('{"question": "", "answer": "#### 3"}', "line 3: 'question' is empty"),
        ('{"question": "1+2", "answer": "3"}', "line 3: data.answer_pattern="),
        ('{"question": "1+2", "answer": "#### \\\\frac{1}{"}', "line 3: answer: not a mathematical expression"),
    ],
)
def test_a_malformed_row_is_named_by_its_line(with_file, bad, said):
    found = refusal(*with_file(GOOD + "\n" + bad + "\n" + GOOD))
    assert found.startswith("data.train=") and said in found


def test_parquet_rows_and_columns(tmp_path, with_file):
    rows = {"question": ["a", "b"], "answer": ["#### 1", "two"]}
    overrides = with_file("", "data.parquet")
    assert "not Parquet" in refusal(*overrides)
    parquet.write_table(pyarrow.table(rows), tmp_path / "data.parquet")
    assert "row 2: data.answer_pattern=" in refusal(*overrides)
    parquet.write_table(pyarrow.table({"question": ["a"]}), tmp_path / "data.parquet")
    assert "row 1: no 'answer' (data.answer_key); it has question" in refusal(*overrides)


def test_files_that_are_not_there_or_not_data(tmp_path, with_file):
    assert refusal("experiment=gsm8k", "data.train=nowhere.jsonl") == "data.train=nowhere.jsonl: no such file"
    assert "no such file" in refusal("experiment=gsm8k", "data.train=./nowhere")
    assert "not a file" in refusal("experiment=gsm8k", f"data.train={tmp_path}")
    assert "must end in .jsonl" in refusal(*with_file(GOOD, "data.txt"))
    assert "has no rows" in refusal(*with_file("\n"))
    assert refusal(*with_file(GOOD), "data.eval=gone.jsonl").startswith("data.eval=gone.jsonl: no such file")


def test_pattern_and_verifier(with_file):
    good = with_file(GOOD)
    assert "not a regular expression" in refusal(*good, 'data.answer_pattern="("')
    assert "needs a group" in refusal(*good, "data.answer_pattern=x")
    assert refusal(*good, "data.verifier=mth").startswith("data.verifier=mth: unknown verifier 'mth': one of")


def test_tasks_are_checked_by_their_family():
    assert refusal("data.tasks=[{family: gcdd}]").startswith("data.tasks.0: unknown family 'gcdd'")
    assert "gcd has no parameter 'max'" in refusal("data.tasks=[{family: gcd, params: {max: 3}}]")
    assert refusal("data.tasks=[{family: sudoku}]").startswith("data.prompt_style=compact: sudoku")
    worded = ("data.tasks=[{family: sudoku}]", "data.prompt_style=question")
    preflight(load_config(worded))
    assert refusal(*worded, "warm_start.steps=1").startswith("warm_start.steps=1: ")


def test_tokenizer_and_vocabulary():
    assert refusal("model.vocab_size=100") == "model.vocab_size=100: data.tokenizer=bytes has 264 tokens"
    assert refusal("data.tokenizer=./nowhere").startswith("data.tokenizer=./nowhere: ")


def test_a_checkpoint_of_another_shape(tmp_path):
    shape = {"model_type": "minimax_m1", "attn_type_list": [0, 1], "num_hidden_layers": 2, "rope_theta": 1e7}
    numbers = "vocab_size hidden_size intermediate_size num_attention_heads num_local_experts num_experts_per_tok"
    (tmp_path / "config.json").write_text(
        json.dumps(shape | dict.fromkeys(numbers.split(), 64) | {"head_dim": 32, "rotary_dim": 32})
    )
    found = refusal(f"checkpoint={tmp_path}")
    assert (
        "has another shape than model" in found and "hidden_size: 128, not 64" in found and "model=checkpoint" in found
    )
    assert refusal("checkpoint=nowhere").startswith("checkpoint=nowhere: ")


def test_a_run_that_cannot_go_on(tmp_path):
    (tmp_path / "config.yaml").write_text(to_yaml(load_config(["experiment=smoke"])))
    said = f"resume={tmp_path}: the run ended before its first step; start it again without resume"
    assert refusal(f"resume={tmp_path}") == said
    (tmp_path / "metrics.jsonl").write_text('{"step": 2}\n')
    assert "ended after 2 steps, before its first checkpoint" in refusal(f"resume={tmp_path}")
    done = tmp_path / "checkpoints" / "step-000003"
    done.mkdir(parents=True)
    (done / "state.json").write_text(json.dumps(asdict(RunState(step=3))))
    preflight(load_config([f"resume={tmp_path}"]))  # killed between the last checkpoint and its evaluation
    (tmp_path / "metrics.jsonl").write_text('{"step": 3, "time/evaluate_s": 1.0}\n')
    assert "steps=3: the run has done 3 already" in refusal(f"resume={tmp_path}")
    preflight(load_config([f"resume={tmp_path}", "steps=4"]))
    assert "checkpoints.best=eval/luck: must be" in refusal(
        f"resume={tmp_path}", "steps=4", "checkpoints.best=eval/luck"
    )


def test_a_run_of_the_first_version_is_refused_and_its_weights_offered(tmp_path):
    (tmp_path / "config.yaml").write_text(to_yaml(load_config(["experiment=smoke"])))
    done = tmp_path / "checkpoints" / "step-000001"
    (done / "learner").mkdir(parents=True)
    (done / "state.json").write_text(json.dumps(asdict(RunState(step=1))))
    (done / "learner" / "latest").write_text("state")  # as DeepSpeed saved it
    said = refusal(f"resume={tmp_path}", "steps=4")
    assert "saved by version 0.1.0" in said and said.endswith(f"checkpoint={done}")


def test_a_damaged_checkpoint_is_refused_and_the_one_before_it_offered(tmp_path):
    (tmp_path / "config.yaml").write_text(to_yaml(load_config(["experiment=smoke", "steps=9"])))
    checkpoints = tmp_path / "checkpoints"
    for step in (1, 2, 3):
        save_state(checkpoints, RunState(step=step), lambda folder: (folder / "weights").write_bytes(b"right"))
    preflight(load_config([f"resume={tmp_path}"]))
    (checkpoints / "step-000003/weights").write_bytes(b"wrong")
    (checkpoints / "step-000002/state.json").unlink()  # no whole folder: not looked at
    last, first = (checkpoints / f"step-00000{step}" for step in (3, 1))
    said = f"resume={tmp_path}: {last} is damaged: weights has other bytes than were written"
    assert refusal(f"resume={tmp_path}") == f"{said}; the one before is whole: resume={first}"
    preflight(load_config([f"resume={first}"]))
    (first / "weights").unlink()
    assert refusal(f"resume={tmp_path}") == f"{said}; no whole one is before it"
    assert "weights is missing" in refusal(f"resume={first}")


def test_places_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    assert refusal(f"runs_dir={tmp_path}/file").startswith(f"runs_dir={tmp_path}/file: cannot write to")


def test_offload_needs_a_gpu(monkeypatch):
    monkeypatch.setattr("lightning_cispo.train.preflight.gpu_count", lambda: 0)
    assert refusal("learner.offload=true").startswith("learner.offload=true: there is no GPU")


@pytest.mark.parametrize(("gpus", "given", "ranks"), [(0, 0, 2), (1, 0, 1), (8, 0, 2), (0, 4, 4), (8, 4, 4)])
def test_ranks_that_a_machine_carries(monkeypatch, tmp_path, gpus, given, ranks):
    monkeypatch.setattr("lightning_cispo.train.preflight.gpu_count", lambda: gpus)
    config = load_config(["experiment=smoke", f"learner.world_size={given}", f"runs_dir={tmp_path}"])
    preflight(config)
    assert config.learner.world_size == ranks


def test_a_rank_needs_its_own_gpu(monkeypatch):
    monkeypatch.setattr("lightning_cispo.train.preflight.gpu_count", lambda: 1)
    assert refusal("learner.world_size=2").startswith("learner.world_size=2: a rank needs a GPU of its own")
