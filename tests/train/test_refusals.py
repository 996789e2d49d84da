"""Refusals in one line, before anything starts, of what a user may get wrong."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from lightning_cispo.configs.errors import ConfigError
from lightning_cispo.configs.load import load_config
from lightning_cispo.train import check_machine
from lightning_cispo.train.preflight import preflight, preflight_training

SHAPE = {
    "model_type": "minimax_m1",
    "attn_type_list": [0, 1],
    "num_hidden_layers": 2,
    "rope_theta": 1e7,
    "vocab_size": 512,
    "hidden_size": 64,
    "intermediate_size": 64,
    "num_attention_heads": 2,
    "num_local_experts": 4,
    "num_experts_per_tok": 2,
    "head_dim": 32,
    "rotary_dim": 32,
}


def refusal(tmp_path: Path, *overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        preflight_training(load_config(["tracking.mode=disabled", f"runs_dir={tmp_path}/runs", *overrides]))
    message = str(caught.value)
    assert "\n" not in message
    return message


REFUSED = [
    ("name=" + "a" * 300, "name=aaaaaaaaaaaaaaaaaaaa...: must be at most 200 bytes long"),
    ("name=" + "é" * 101, "must be at most 200 bytes long"),
    ("name=a\tb", "name='a\\tb': must be the name of a folder"),
    ("name=..", "name=..: must be the name of a folder"),
    (f"seed={2**64}", f"seed={2**64}: must be at most {2**64 - 1}"),
    ("steps=100000000000000000000000", "steps=100000000000000000000000: must be at most 1000000000000"),
    ("sampling.top_k=9999999999999999999", "sampling.top_k=9999999999999999999: must be at most 9007199254740992"),
    ("tracking.project=a/b", "tracking.project=a/b: must be a name of at most 128 characters without"),
    ("tracking.entity=a b", "tracking.entity=a b: must be a name"),
    ("rollout.slots=1000000000", "rollout.slots=1000000000: must be at most 1000000"),
    ("rollout.workers=1000000", "rollout.workers=1000000: must be at most 10000"),
    ("learner.threads=100000", "learner.threads=100000: must be at most 1024"),
    ("rollout.threads=100000", "rollout.threads=100000: must be at most 1024"),
    ("rewards.processes=100000", "rewards.processes=100000: must be at most 1024"),
    ("cluster.object_store_mb=10000000000", "cluster.object_store_mb=10000000000: must be at most 1073741824"),
    ("rewards.correct_weight=inf", "rewards.correct_weight=inf: must be a finite number"),
    ("rewards.clip_max=nan", "must be below rewards.clip_max=nan"),
    ("optimizer.eps=inf", "optimizer.eps=inf: must be a finite number"),
    ("sampling.temperature=inf", "sampling.temperature=inf: must be "),
    ("rewards.judge.bias_threshold=nan", "rewards.judge.bias_threshold=nan: must be "),
    ("algorithm.eps_high=nan", "algorithm.eps_high=nan: must be "),
    ("rewards.language=klingon", "rewards.language=klingon: no letter's Unicode name begins so"),
    ("rewards.judge.template=nothere", "rewards.judge.template=nothere: neither a name in configs/judge nor a file"),
    ("rewards.judge.url=localhost:8000", "rewards.judge.url=localhost:8000: must be http(s)://host"),
    ("rewards.judge.url=http://", "rewards.judge.url=http://: must be http(s)://host"),
    ("checkpoint=", "checkpoint=: must not be empty; null leaves it out"),
    ("resume=", "resume=: must not be empty; null leaves it out"),
    ("runs_dir=", "runs_dir=: must not be empty"),
    ("name=", "name=: must not be empty"),
    ("tracking.project=", "tracking.project=: must not be empty"),
    ("cluster.address=", "cluster.address=: must not be empty; null leaves it out"),
    ("data.tokenizer= ", "data.tokenizer= : must not be empty"),
    ("data.verifier=", "data.verifier=: must not be empty"),
    ("data.prompt_key=", "data.prompt_key=: must not be empty"),
    ("data.answer_pattern=", "data.answer_pattern=: must not be empty; null leaves it out"),
    ("data.train=", "data.train=: must not be empty; null names none"),
    ("data.train=['',a.jsonl]", "data.train=, a.jsonl: must not be empty"),
]


@pytest.mark.parametrize(("override", "said"), REFUSED, ids=[override[:40] for override, _ in REFUSED])
def test_values_no_program_could_use(tmp_path, override, said):
    assert said in refusal(tmp_path, override)


def test_the_ends_of_ranges_pass(tmp_path):
    for override in (f"seed={2**64 - 1}", "name=" + "a" * 200, "rewards.language=CYRILLIC", "optimizer.grad_clip=inf"):
        preflight(load_config(["tracking.mode=disabled", f"runs_dir={tmp_path}", override]))


def test_a_machine_that_is_too_small(tmp_path, monkeypatch):
    monkeypatch.setattr("lightning_cispo.train.cluster.session.available_cores", lambda: 2)
    monkeypatch.setattr(check_machine, "machine_memory", lambda: 1 << 30)
    monkeypatch.setattr(check_machine, "has_gpu", lambda: False)
    assert refusal(tmp_path, "rollout.threads=9") == (
        "rollout.threads=9: must be at most 8, as this machine has 2 cores"
    )
    assert refusal(tmp_path, "cluster.object_store_mb=2000") == (
        "cluster.object_store_mb=2000: must be below the 1.0 GiB of memory here"
    )
    found = refusal(tmp_path, "rollout.slots=100000")
    # float32: 7 lightning layers of 4 heads with 32 x 32 states are 114,688 bytes; weights of 1,465,216 parameters
    assert found.startswith("rollout.slots=100000: 2 workers' weights of ") and found.endswith(" fit")
    most = int(found.split("at most ")[1].split()[0])
    preflight(load_config(["tracking.mode=disabled", f"runs_dir={tmp_path}", f"rollout.slots={most}"]))
    assert "rollout.slots" in refusal(tmp_path, f"rollout.slots={most + 1}")
    small = "model=small", "rollout.slots=1", "rollout.workers=1"
    monkeypatch.setattr(check_machine, "machine_memory", lambda: 8 << 30)
    assert refusal(tmp_path, *small).startswith("learner.world_size=1: parameters, gradients and optimizer take ")
    preflight(load_config(["tracking.mode=disabled", f"runs_dir={tmp_path}", *small]))  # an evaluation
    for elsewhere in ("dry_run=true", "cluster.address=auto"):
        preflight_training(load_config(["tracking.mode=disabled", f"runs_dir={tmp_path}", *small, elsewhere]))


def test_a_checkpoint_that_is_none(tmp_path):
    (tmp_path / "file").write_text("x")
    assert refusal(tmp_path, f"checkpoint={tmp_path}/file", "model=checkpoint") == (
        f"checkpoint={tmp_path}/file: {tmp_path}/file: a file; must be the folder that holds config.json"
    )
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(SHAPE))
    given = f"checkpoint={folder}", "model=checkpoint"
    assert refusal(tmp_path, *given).startswith(
        f"checkpoint={folder}: {folder}: has neither model.safetensors nor model.safetensors.index.json"
    )
    (folder / "model.safetensors").write_bytes(b"x" * 100)
    assert "model.safetensors: truncated or not safetensors" in refusal(tmp_path, *given)
    save_file(
        {"lm_head.weight": torch.zeros(512, 64, dtype=torch.bfloat16), "odd": torch.zeros(1)},
        folder / "model.safetensors",
    )
    found = refusal(tmp_path, *given)
    assert "missing (" in found and "unexpected (1): odd" in found
    preflight(load_config(["tracking.mode=disabled", *given, "dry_run=true"]))  # a plan needs no weights


def test_too_few_distinct_prompts(tmp_path):
    file = tmp_path / "few.jsonl"
    file.write_text('{"question": "q", "answer": "#### 3"}\n' * 40)
    given = "experiment=gsm8k", f"data.train={file}", "data.held_out_percent=0", "evaluation.problems=0"
    assert refusal(tmp_path, *given).startswith(
        f"data.train={file}: data: only 1 of 4 distinct prompts found; of the last 81 drawn 81 repeated"
    )
    assert "only 1 of 2 distinct" in refusal(tmp_path, *given, "algorithm.prompts_per_step=2")
    file.write_text("".join(json.dumps({"question": f"q{i}", "answer": f"#### {i}"}) + "\n" for i in range(4)))
    preflight_training(load_config(["tracking.mode=disabled", f"runs_dir={tmp_path}", *given]))
    tasks = "data.tasks=[{family: count_bits, params: {min_n: 1, max_n: 5}}]"
    assert "distinct prompts found" in refusal(tmp_path, tasks)
    assert list(tmp_path.iterdir()) == [file]


def test_a_pattern_of_dollars_is_refused_by_its_row_or_for_its_reference(tmp_path):
    file = tmp_path / "a.jsonl"
    file.write_text('{"question": "q", "answer": "so ${3}"}\n')
    given = "experiment=gsm8k", f"data.train={file}"
    assert "line 1: data.answer_pattern=${(.+)} finds no answer" in refusal(
        tmp_path, *given, r"data.answer_pattern=\${(.+)}"
    )
    assert "for the text itself write" in refusal(tmp_path, *given, "data.answer_pattern=${(.+)}")
