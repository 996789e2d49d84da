"""The plan's numbers against hand-made arithmetic."""

from __future__ import annotations

import subprocess
import sys

from lightning_cispo.configs.load import load_config, load_yaml
from lightning_cispo.model.describe import count_parameters
from lightning_cispo.train.plan import describe
from tests.conftest import ROOT


def test_batch_arithmetic_memory_and_actors(tmp_path):
    overrides = "experiment=smoke learner.world_size=2 learner.zero_stage=2 rollout.workers=3 cluster.address=head:1"
    sizes = "algorithm.prompts_per_step=8 data.max_prompt_tokens=48"
    config = load_config([f"runs_dir={tmp_path}", *overrides.split(), *sizes.split()])
    text = describe(config)
    # 8 prompts x 4 responses, 2 updates, 2 ranks; 48 + 16 tokens a sequence
    assert "8 prompts x 4 = 32 responses" in text
    assert "/ 2 updates = 4 prompts, 16 responses an update" in text
    assert "/ 2 ranks = 8 responses a rank, at most 64 tokens each" in text
    assert "at most 512 tokens, about 1 micro-batches" in text
    total = count_parameters(config.model).total
    assert f"{total:,} parameters" in text
    mebibytes = 4 * total / 2**20
    # ZeRO 2 on two ranks: parameters whole, gradients halved, two moments and the float32 copy halved
    assert (
        f"parameters {mebibytes:.1f} MiB, gradients {mebibytes / 2:.1f} MiB, optimizer {3 * mebibytes / 2:.1f} MiB"
        in text
    )
    assert "attaches to head:1; 2 learner + 3 rollout actors" in text
    assert str(tmp_path / "smoke") in text


def test_the_plan_ends_in_the_whole_configuration(tmp_path):
    config = load_config(["experiment=gsm8k", "data.train=a.jsonl"])
    _, _, yaml = describe(config).partition("\n\n")
    (tmp_path / "config.yaml").write_text(yaml)
    assert load_yaml(tmp_path / "config.yaml") == config


def test_a_taken_name_is_seen_in_the_plan(tmp_path):
    (tmp_path / "smoke").mkdir()
    (tmp_path / "smoke" / "metrics.jsonl").touch()
    assert str(tmp_path / "smoke-2") in describe(load_config(["experiment=smoke", f"runs_dir={tmp_path}"]))


def test_dry_run_starts_nothing_and_leaves_nothing(tmp_path):
    command = [
        sys.executable,
        "-m",
        "lightning_cispo.train",
        "experiment=smoke",
        "dry_run=true",
        f"runs_dir={tmp_path}/runs",
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "4 prompts x 4 = 16 responses" in done.stdout and "group_size: 4" in done.stdout
    assert list(tmp_path.iterdir()) == []
