"""From words to a RunConfig: what is taken, what is refused, and how the refusal reads."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import fields, is_dataclass
from enum import Enum
from operator import attrgetter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightning_cispo.configs.errors import ConfigError
from lightning_cispo.configs.keys import all_keys, type_of
from lightning_cispo.configs.load import load_config, load_yaml, main_config, to_yaml
from lightning_cispo.configs.resume import CHANGEABLE, WARNED
from lightning_cispo.configs.schema import Anchor, ChatTemplate, RunConfig, TaskConfig
from lightning_cispo.configs.usage import groups
from tests.conftest import ROOT


def plain(value) -> bool:
    """Made of dataclasses, enums and Python's own types alone: nothing of OmegaConf is left."""
    if is_dataclass(value):
        return all(plain(getattr(value, field.name)) for field in fields(value))
    if isinstance(value, Enum):
        return True
    if type(value) in (list, dict):
        return all(map(plain, value.values() if isinstance(value, dict) else value))
    return value is None or type(value) in (str, int, float, bool)


def refusal(*overrides: str, **options) -> str:
    with pytest.raises(ConfigError) as caught:
        load_config(overrides, **options)
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize("experiment", groups()["experiment"])
def test_every_experiment_is_a_plain_config(experiment):
    config = load_config([f"experiment={experiment}"])
    assert type(config) is RunConfig and plain(config)
    assert config.name == experiment


def test_every_option_of_every_group_composes():
    for model in set(groups()["model"]) - {"checkpoint"}:
        assert load_config([f"model={model}"]).model.num_hidden_layers >= 1
    assert load_config(["model=checkpoint", "checkpoint=somewhere"]).model.from_checkpoint
    assert load_config(["data=gsm8k"]).data.chat_template is ChatTemplate.minimax_m1
    assert load_config(["data=file", "data.train=x.jsonl"]).data.train == ["x.jsonl"]


def test_overrides_win_over_experiments_and_keep_their_types():
    config = load_config(["experiment=smoke", "steps=7", "+algorithm.anchor=learner", "optimizer.lr=1", "name=5"])
    assert config.steps == 7 and config.algorithm.anchor is Anchor.learner
    assert config.optimizer.lr == 1.0 and type(config.optimizer.lr) is float and config.name == "5"
    tasks = load_config(["data.tasks=[{family: gcd, params: {max_value: 9}}]"]).data.tasks
    assert tasks == [TaskConfig("gcd", params={"max_value": 9})]
    assert load_config(["data.tasks.0.weight=2.5"]).data.tasks[0].weight == 2.5


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("+algorithm.clpi=1", "unknown key algorithm.clpi; algorithm has prompts_per_step, group_size"),
        ("algorithm.grop_size=4", "did you mean algorithm.group_size?"),
        ("++algorithm.grop_size=4", "did you mean algorithm.group_size?"),
        ("group_size=4", "did you mean algorithm.group_size?"),
        ("warm_start.optimizer.learning_rate=1", "unknown key warm_start.optimizer.learning_rate"),
        ("steps.more=1", "steps is an integer and has no keys"),
        ("data.tasks=[{family: gcd, wieght: 2}]", "did you mean data.tasks.0.weight?"),
        ("hydra.run.dir=x", "unknown key hydra.run.dir"),
        ("steps=abc", "steps=abc: must be an integer"),
        ("steps=1.5", "steps=1.5: must be an integer"),
        ("steps=null", "steps=null: must be an integer"),
        ("optimizer.lr=fast", "optimizer.lr=fast: must be a number"),
        ("data.tasks=3", "data.tasks=3: must be a list"),
        ("data.tasks=[{weight: x}]", "could not be converted to Float"),
        ("optimizer=5", "must be a section with the keys lr"),
        ("algorithm=5", "must be one of cispo, dapo"),
        ("algorithm.anchor=smapler", "algorithm.anchor=smapler: must be one of sampler, learner"),
        ("tracking.mode=on", "must be one of offline, online, disabled"),
        ("model=huge", "model=huge: must be one of checkpoint, minimax_m1"),
        ("experiment=none", "experiment=none: must be one of gsm8k, quickstart, smoke"),
        ("steps", "must read key=value"),
        ("steps=[1", "must read key=value"),
        ("~steps", "can't be taken away"),
        ("steps=1,2", "a list goes in brackets"),
        ("--steps=3", "written key=value, without dashes"),
        ('name="${sed}"', "name: Interpolation key 'sed' not found"),
    ],
)
def test_a_wrong_word_is_refused_in_one_line(override, said):
    assert said in refusal(override)


@given(st.text("abcdefghijklmnopqrstuvwxyz_.", min_size=1, max_size=20))
def test_no_unknown_key_gets_through(key):
    known = [*all_keys(), *groups()]
    if not any(key == name or name.startswith(f"{key}.") for name in known):
        refusal(f"+{key}=1")


def test_yaml_round_trip(tmp_path):
    config = load_config(["experiment=gsm8k", "data.train=a.jsonl", "seed=3", "algorithm.truncated_is_max=null"])
    (tmp_path / "config.yaml").write_text(to_yaml(config))
    assert load_yaml(tmp_path / "config.yaml") == config


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("algorithm: {clpi: 1}", "unknown key algorithm.clpi"),
        ("algorithm: {anchor: x}", "algorithm.anchor: must be one of sampler, learner"),
        ("algorithm: {", "not YAML"),
    ],
)
def test_a_wrong_file_is_refused_by_name(tmp_path, text, said):
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(ConfigError, match="config.yaml: ") as caught:
        load_yaml(tmp_path / "config.yaml")
    assert said in str(caught.value)
    with pytest.raises(ConfigError, match="missing.yaml: No such file"):
        load_yaml(tmp_path / "missing.yaml")


@pytest.fixture
def run_folder(tmp_path):
    folder = tmp_path / "runs" / "mine"
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(to_yaml(load_config(["experiment=smoke", "seed=4", "name=other"])))
    return folder


def test_resume_takes_the_stored_config_and_what_may_change(run_folder):
    config = load_config([f"resume={run_folder}", "steps=9", "tracking.mode=disabled", "algorithm.group_size=4"])
    assert (config.seed, config.steps, config.algorithm.group_size) == (4, 9, 4)
    assert (config.runs_dir, config.name) == (str(run_folder.parent), "mine")


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("algorithm.group_size=8", "algorithm.group_size=8: can't change when a run is resumed (it has 4)"),
        ("seed=5", "seed=5: can't change"),
        ("experiment=smoke", "leave experiment out"),
        ("evaluation.promblems=5", "did you mean evaluation.problems?"),
        ("steps=x", "steps=x: must be an integer"),
    ],
)
def test_resume_refuses_what_would_make_another_run(run_folder, override, said):
    assert said in refusal(f"resume={run_folder}", override)


HARDWARE = [
    "rollout.workers=5",
    "rollout.slots=99",
    "rollout.kv_tokens=9999",
    "rollout.prefill_tokens=512",
    "rollout.threads=3",
    "learner.threads=3",
    "learner.micro_batch_tokens=9999",
    "learner.activation_checkpointing=true",
    "rewards.processes=7",
    "rewards.judge.url=http://elsewhere/v1",
    "tracking.progress=false",
    "evaluation.samples=3",
    "evaluation.every=7",
    "checkpoints.keep=9",
    "cluster.address=auto",
    "steps=77",
]


@pytest.mark.parametrize("override", HARDWARE)
def test_resume_takes_what_changes_no_result(run_folder, override, capsys):
    key, _, value = override.partition("=")
    assert str(attrgetter(key)(main_config("cispo train", [f"resume={run_folder}", override]))).lower() == value
    assert "bend" not in capsys.readouterr().err


def test_resume_takes_another_learning_rate_with_a_word_of_warning(run_folder, capsys):
    config = main_config("cispo train", [f"resume={run_folder}", "optimizer.lr=3e-5"])
    assert config.optimizer.lr == 3e-5
    assert "warning: optimizer.lr=3e-05: from here on, instead of 0.0001" in capsys.readouterr().err
    main_config("cispo train", [f"resume={run_folder}", "optimizer.lr=1e-4"])
    assert "optimizer.lr" not in capsys.readouterr().err


def test_every_key_that_resume_takes_is_one():
    for name in (*CHANGEABLE, *WARNED):
        assert any(key == name or key.startswith(f"{name}.") for key in all_keys())


@pytest.mark.parametrize(
    "override",
    [
        "learner.world_size=2",
        "learner.zero_stage=2",
        "learner.precision=bfloat16",
        "rollout.recompute=true",
        "rewards.timeout_s=9",
        "rewards.judge.model=other",
        "sampling.temperature=0.5",
        "optimizer.beta1=0.5",
        "data.instruction=x",
        "model.hidden_size=64",
        "warm_start.steps=9",
    ],
)
def test_resume_refuses_what_changes_results(run_folder, override):
    assert refusal(f"resume={run_folder}", override).startswith(f"{override}: can't change when a run is resumed")


def test_resume_wants_a_run_folder(tmp_path):
    assert "must be the folder of a run" in refusal(f"resume={tmp_path}")


def test_data_shorthand_for_evaluation():
    for value in ("owner/name", "../some/test.jsonl"):
        config = load_config([f"data={value}"], data_shorthand=True)
        assert config.data.eval == [value] and not config.data.tasks
        assert "must be one of arithmetic" in refusal(f"data={value}")
    assert load_config(["data=arithmetic"], data_shorthand=True).data.tasks
    kept = load_config(["experiment=gsm8k", "data=x.jsonl"], data_shorthand=True).data
    assert (kept.eval, kept.answer_pattern) == (["x.jsonl"], load_config(["data=gsm8k"]).data.answer_pattern)


def test_programs_exit_with_2_and_one_line():
    """As a program of its own, and without torch: a typing error is answered at once."""
    script = "import sys; from lightning_cispo.configs.load import main_config; main_config('cispo train', None)"
    found = subprocess.run(
        [sys.executable, "-c", script, "+algorithm.clpi=1"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert found.returncode == 2 and found.stdout == ""
    assert found.stderr.startswith("error: unknown key algorithm.clpi") and found.stderr.count("\n") == 1


def test_further_checks_refuse_alike(capsys):
    def refuse(config: RunConfig) -> None:
        raise ConfigError(f"steps={config.steps}: not today")

    with pytest.raises(SystemExit) as caught:
        main_config("cispo train", ["steps=3"], refuse)
    assert caught.value.code == 2 and capsys.readouterr().err == "error: steps=3: not today\n"


def test_warnings_are_printed_and_the_run_goes_on(capsys):
    config = main_config("cispo train", ["algorithm.anchor=learner", "algorithm.updates_per_step=1"])
    assert config.algorithm.updates_per_step == 1
    assert capsys.readouterr().err.startswith("warning: algorithm.anchor=learner with algorithm.updates_per_step=1")


def test_help_lists_every_group_and_key(capsys):
    with pytest.raises(SystemExit) as caught:
        main_config("cispo train", ["--help"])
    text = capsys.readouterr().out
    assert caught.value.code == 0
    assert all(f"  {key}=" in text for key in all_keys())
    assert "  experiment=gsm8k|quickstart|smoke" in text
    assert "absolute bounds of the importance weight" in text  # the schema's own comments


def printed(capsys, *arguments: str) -> str:
    with pytest.raises(SystemExit) as caught:
        main_config("cispo train", arguments)
    assert caught.value.code == 0
    return capsys.readouterr().out


def test_help_of_a_section_shows_its_keys_with_the_values_typed(capsys):
    text = printed(capsys, "--help", "algorithm", "algorithm.group_size=4", "experiment=smoke")
    keys = [line.split("=")[0].strip() for line in text.splitlines() if line.startswith("  ")]
    assert keys == ["algorithm", *(key for key in all_keys() if key.startswith("algorithm."))]  # a group first
    assert "  algorithm.group_size=4 " in text and "algorithm.prompts_per_step=4 " in text
    text = printed(capsys, "warm_start.optimizer", "-h", "warm_start.optimizer.lr=0.5")
    assert "  warm_start.optimizer.lr=0.5\n" in text and "algorithm." not in text
    text = printed(capsys, "--help", "data", "data=gsm8k", "steps=3")
    assert "  data=arithmetic|file|gsm8k" in text and "data.subset=main " in text and "steps=3" not in text


def test_help_with_what_is_refused_says_so_in_a_line(capsys):
    for arguments, said in (
        (["--help", "algoritm"], "error: --help algoritm: no such section; did you mean algorithm?\n"),
        (["--help", "steps=x"], "error: steps=x: must be an integer\n"),
    ):
        with pytest.raises(SystemExit) as caught:
            main_config("cispo train", arguments)
        assert caught.value.code == 2 and capsys.readouterr().err == said


def test_types_of_keys_follow_lists_and_mappings():
    assert type_of("data.tasks.3.weight") is float
    assert type_of("data.tasks.0.params.anything") is not None
