"""Combinations that are refused, each naming its key, and those that are warned about."""

from __future__ import annotations

import pytest

from lightning_cispo.configs.check import problems
from lightning_cispo.configs.errors import ConfigError
from lightning_cispo.configs.load import load_config
from lightning_cispo.configs.schema import RunConfig, TaskConfig
from lightning_cispo.configs.warn import warnings

REFUSED = [
    (["algorithm.prompts_per_step=30"], "algorithm.prompts_per_step=30: must be a multiple of", "28 or 32"),
    (["algorithm.prompts_per_step=3"], "algorithm.prompts_per_step=3: must be a multiple of", "such as 4"),
    (["algorithm.group_size=1"], "algorithm.group_size=1: must be at least 2", ""),
    (["algorithm.updates_per_step=0"], "algorithm.updates_per_step=0: must be at least 1", ""),
    (
        ["learner.world_size=8", "algorithm.prompts_per_step=4", "algorithm.group_size=4"],
        "learner.world_size=8: an update has only 4 responses",
        "",
    ),
    (["algorithm.is_weight_min=6"], "algorithm.is_weight_min=6.0: must lie between 0 and", "is_weight_max=5.0"),
    (["algorithm.is_weight_max=0"], "algorithm.is_weight_min=0.0: must lie between", ""),
    (["algorithm.truncated_is_max=2"], "algorithm.truncated_is_max=2.0: with algorithm.anchor=sampler", "twice"),
    (
        ["algorithm.anchor=learner", "algorithm.truncated_is_max=0"],
        "algorithm.truncated_is_max=0.0: must be above 0",
        "",
    ),
    (["algorithm.dynamic_sampling=false", "algorithm.max_refills=1"], "algorithm.max_refills=1: refills replace", ""),
    (["optimizer.lr=-1"], "optimizer.lr=-1.0: must be at least 0", ""),
    (["optimizer.lr=nan"], "optimizer.lr=nan", ""),
    (["warm_start.optimizer.beta2=1"], "warm_start.optimizer.beta2=1.0: must be at least 0 and below 1", ""),
    (["sampling.temperature=0"], "sampling.temperature=0.0: must be at least 1e-06", ""),
    (["evaluation.temperature=-1"], "evaluation.temperature=-1.0: must be 0 (greedy) or at least 1e-06", ""),
    (["evaluation.temperature=1e-40"], "evaluation.temperature=1e-40: must be 0 (greedy) or at least 1e-06", ""),
    (["evaluation.temperature=nan"], "evaluation.temperature=nan: must be 0 (greedy)", ""),
    (["sampling.max_tokens=0"], "sampling.max_tokens=0: must be at least 1", ""),
    (["warm_start.direct_fraction=1.5"], "warm_start.direct_fraction=1.5: must be between 0 and 1", ""),
    (["data.train=x.jsonl"], "data.train=x.jsonl: data.tasks is set too", ""),
    (["data.tasks=[]"], "data.train=null: name a .jsonl", "data.tasks"),
    (["data.tasks=[{weight: 0}]"], "data.tasks.0.weight=0.0: must be above 0", ""),
    (["data.held_out_percent=0"], "data.held_out_percent=0: leaves nothing to evaluate on", ""),
    (["data.held_out_percent=100"], "data.held_out_percent=100: must be between 0 and 99", ""),
    (["data=gsm8k", "data.prompt_style=compact"], "data.prompt_style=compact: only generated problems", ""),
    (["data.tokenizer=checkpoint"], "data.tokenizer=checkpoint: add checkpoint=", ""),
    (["learner.micro_batch_tokens=100"], "learner.micro_batch_tokens=100: must hold one prompt and its response", ""),
    (["rollout.kv_tokens=8"], "rollout.kv_tokens=8: must hold one prompt and its response", ""),
    (["sampling.top_p=0"], "sampling.top_p=0.0: must be above 0 and at most 1", ""),
    (["sampling.top_p=0.9"], "sampling.top_p=0.9: the learner knows nothing", "sampling.allow_truncated=true"),
    (["sampling.top_k=40"], "sampling.top_k=40: the learner knows nothing", "sampling.allow_truncated=true"),
    (["sampling.min_tokens=4"], "sampling.min_tokens=4: the learner knows nothing", "sampling.allow_truncated=true"),
    (["sampling.min_tokens=1000"], "sampling.min_tokens=1000: more than sampling.max_tokens", ""),
    (["sampling.stop=['']"], "sampling.stop=['']: no string may be empty", ""),
    (["sampling.thinking_tokens=1000"], "sampling.thinking_tokens=1000: must leave some", ""),
    (["sampling.closing_text=Enough."], "sampling.closing_text='Enough.': must close the thinking", "</think>"),
    (["rewards.processes=-1"], "rewards.processes=-1: must be at least 0", ""),
    (["rewards.overlong_weight=1"], "rewards.overlong_cache_tokens=0: with rewards.overlong_weight", ""),
    (["rewards.clip_min=2"], "rewards.clip_min=2.0: must be below rewards.clip_max", ""),
    (["learner.zero_stage=4"], "learner.zero_stage=4: must be 0, 1, 2 or 3", ""),
    (["learner.zero_stage=0", "learner.offload=true"], "learner.offload=true: needs learner.zero_stage", ""),
    (
        ["learner.exact=true", "model.router_jitter_noise=0.1"],
        "learner.exact=true: model.router_jitter_noise=0.1 routes the learner by chance",
        "",
    ),
    (["cluster.object_store_mb=10"], "cluster.object_store_mb=10: must be at least 80", ""),
    (["name=a/b"], "name=a/b: must be the name of a folder", ""),
    (["model=checkpoint"], "model.from_checkpoint=true: add checkpoint=", ""),
    (["model.num_key_value_heads=3"], "model.num_key_value_heads=3: must divide num_attention_heads", ""),
    (["model.max_position_embeddings=10"], "model.max_position_embeddings=10: must be at least", ""),
]


def test_cut_distributions_where_asked_for_or_where_nothing_trains():
    assert load_config(["sampling.top_p=0.9", "sampling.allow_truncated=true"]).sampling.top_p == 0.9
    assert load_config(["sampling.top_p=0.9"], data_shorthand=True).sampling.top_p == 0.9


@pytest.mark.parametrize(("overrides", "start", "within"), REFUSED, ids=[" ".join(row[0]) for row in REFUSED])
def test_impossible_combinations_name_their_key(overrides, start, within):
    with pytest.raises(ConfigError) as caught:
        load_config(overrides)
    message = str(caught.value)
    assert message.startswith(start) and within in message and "\n" not in message


def test_stop_strings_that_are_too_long_are_not_spelled_out():
    with pytest.raises(ConfigError) as caught:
        load_config(["sampling.stop=['" + "é" * 513 + "']"])
    assert str(caught.value) == "sampling.stop: 1026 bytes together, must be at most 1024"


def test_defaults_with_a_task_have_no_problem_and_no_warning():
    config = RunConfig()
    config.data.tasks = [TaskConfig()]
    config.warm_start.steps = 1
    assert list(problems(config)) == [] and warnings(config) == []


@pytest.mark.parametrize(
    ("overrides", "start"),
    [
        (["algorithm.is_weight_min=0.8"], "algorithm.is_weight_min=0.8"),
        (["algorithm.is_weight_max=0.2"], "algorithm.is_weight_max=0.2"),
        (["algorithm.anchor=learner", "algorithm.updates_per_step=1"], "algorithm.anchor=learner"),
        (["sampling.temperature=0.7"], "sampling.temperature=0.7"),
        (["evaluation.temperature=0", "evaluation.samples=2"], "evaluation.samples=2 with evaluation.temperature=0"),
        (["warm_start.steps=0"], "warm_start.steps=0 without checkpoint"),
    ],
)
def test_surprises_are_warned_about(overrides, start):
    found = warnings(load_config(["warm_start.steps=1", *overrides]))
    assert len(found) == 1 and found[0].startswith(start)
