"""What an evaluation takes over from the run that trained its weights."""

from __future__ import annotations

from pathlib import Path

import pytest

from lightning_cispo.configs.errors import ConfigError
from lightning_cispo.configs.evaluation import run_of
from lightning_cispo.configs.file import to_yaml
from lightning_cispo.configs.load import load_config
from lightning_cispo.configs.schema import ChatTemplate, Precision, PromptStyle, RunConfig
from lightning_cispo.configs.warn import warnings

INSTRUCTION = "\n\nUse \\${seed} and put it in \\boxed{}: 2_0"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """The folder of a run that has saved a checkpoint."""
    folder = tmp_path / "runs" / "mine"
    (folder / "checkpoints" / "step-000080" / "model").mkdir(parents=True)
    given = (
        "experiment=gsm8k data.train=mine.jsonl data.answer_key=solution sampling.max_tokens=4096 seed=7 "
        "sampling.thinking_tokens=2000 learner.micro_batch_tokens=8192 learner.precision=bfloat16 "
        "data.max_prompt_tokens=2000 sampling.temperature=0.7 evaluation.samples=4 rewards.code.timeout_s=9"
    )
    config = load_config([*given.split(), f"data.instruction={INSTRUCTION}", 'sampling.stop=["</answer>"]'])
    (folder / "config.yaml").write_text(to_yaml(config))
    return folder


def evaluated(run: Path, *given: str, inside: str = "") -> RunConfig:
    programs = "model=checkpoint", "data.tokenizer=checkpoint"  # as train/evaluate.py adds them
    return load_config([*programs, f"checkpoint={run / inside}", *given], data_shorthand=True)


@pytest.mark.parametrize("inside", ["", "checkpoints/step-000080", "checkpoints/step-000080/model"])
def test_a_runs_weights_are_sampled_as_they_were_trained(run: Path, inside: str) -> None:
    found = evaluated(run, "data=test.jsonl", inside=inside)
    assert (found.sampling.max_tokens, found.sampling.thinking_tokens) == (4096, 2000)
    assert found.sampling.stop == ["</answer>"] and found.seed == 7
    assert found.data.instruction == INSTRUCTION.replace("\\$", "$")
    assert found.data.chat_template is ChatTemplate.minimax_m1 and found.data.max_prompt_tokens == 2000
    assert found.learner.precision is Precision.bfloat16 and found.rewards.code.timeout_s == 9
    assert found.evaluation.problems == 8 and found.evaluation.samples == 4
    assert found.data.eval == ["test.jsonl"] and found.data.train is None and found.data.answer_key == "answer"
    assert found.data.tokenizer == "checkpoint" and found.model.from_checkpoint and found.name == "mine"


def test_without_data_it_is_the_runs_own(run: Path) -> None:
    found = evaluated(run)
    assert found.data.train == ["mine.jsonl"] and found.data.answer_key == "solution" and found.data.tasks == []
    assert found.data.tokenizer == "checkpoint"
    other = evaluated(run, "data.eval=test.jsonl")
    assert other.data.eval == ["test.jsonl"] and other.data.answer_key == "solution", "one key changes one key"
    assert other.data.train is None, "which need not be at hand"


def test_what_is_typed_wins(run: Path) -> None:
    typed = "data.instruction=", "data.chat_template=plain", "sampling.max_tokens=3000", "evaluation.problems=99"
    found = evaluated(run, *typed, "evaluation.temperature=0", "name=other", "seed=1")
    assert found.data.instruction == "" and found.data.chat_template is ChatTemplate.plain
    assert found.sampling.max_tokens == 3000 and found.sampling.thinking_tokens == 2000
    assert found.evaluation.problems == 99 and found.evaluation.temperature == 0 and found.evaluation.samples == 4
    assert found.name == "other" and found.seed == 1


def test_generated_tasks_come_with_their_prompts(tmp_path: Path) -> None:
    folder = tmp_path / "quick"
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "config.yaml").write_text(to_yaml(load_config(["experiment=quickstart"])))
    own, named = evaluated(folder), evaluated(folder, "data=arithmetic")
    assert own.data == named.data and own.data.prompt_style is PromptStyle.compact and own.evaluation.problems == 600
    assert own.sampling.max_tokens == 56
    assert [task.family for task in evaluated(folder, "data.tasks=[{family: gcd}]").data.tasks] == ["gcd"]


def test_weights_of_no_run_take_the_defaults(tmp_path: Path, run: Path) -> None:
    beside = run / "exported"
    beside.mkdir()
    assert run_of(str(beside)) is None and run_of(str(run)) == run
    assert evaluated(tmp_path, "data=test.jsonl").sampling.max_tokens == RunConfig().sampling.max_tokens


def test_a_training_run_takes_nothing_over(run: Path) -> None:
    assert load_config(["experiment=quickstart", f"checkpoint={run}"]).sampling.max_tokens == 56


def test_the_learners_limits_do_not_hold_for_an_evaluation(run: Path) -> None:
    assert evaluated(run, "sampling.max_tokens=50000").sampling.max_tokens == 50000


def test_an_evaluations_temperature_is_its_own(run: Path) -> None:
    with pytest.raises(ConfigError, match="evaluation.temperature"):
        evaluated(run, "sampling.temperature=0.6")
    assert warnings(evaluated(run), trains=False) == []
    assert "greedy" in warnings(evaluated(run, "evaluation.temperature=0"), trains=False)[0]
