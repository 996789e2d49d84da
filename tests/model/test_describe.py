"""Sizes from the config alone, against the network and the reports' figures."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from lightning_cispo.configs.schema import ModelConfig
from lightning_cispo.model.describe import describe, parse_arguments
from lightning_cispo.model.network import MiniMax
from lightning_cispo.model.sizes import (
    count_parameters,
    deepseek_r1_flops_per_token,
    flops_per_token,
    kv_bytes,
    state_bytes,
    training_bytes,
)
from tests.model.oracle import ORACLE, needs_oracle


def group(name: str, *changes: str) -> ModelConfig:
    return parse_arguments([f"model={name}", *changes])[0]


def test_the_release():
    config = group("minimax_m1")
    counts = count_parameters(config)
    assert round(counts.total / 1e9, 2) == 456.09
    assert round(counts.active / 1e9, 1) == 45.9
    assert state_bytes(config) == 293_601_280
    assert kv_bytes(config) == 40_960
    assert state_bytes(config) // kv_bytes(config) == 7168


@pytest.mark.parametrize("name, millions", [("tiny", 3.9), ("small", 951.4)])
def test_groups(name, millions):
    config = group(name)
    assert round(count_parameters(config).total / 1e6, 1) == millions
    with torch.device("meta"):
        network = MiniMax(config)
    assert count_parameters(config).total == sum(p.numel() for p in network.parameters())


def test_active_parameters_are_those_a_token_touches():
    network = MiniMax(group("quickstart")).initialize(0)
    # the second token reads the first and predicts the third: every weight of attention and router gets a gradient,
    # and its own experts
    network.logprobs(torch.tensor([65, 66, 67]), torch.tensor([0, 3]))[0].sum().backward()
    touched = 0
    for name, parameter in network.named_parameters():
        if "experts" in name:
            used = parameter.grad.flatten(1).abs().amax(1) > 0
            assert 2 <= used.sum() <= 4
            touched += 2 * parameter[0].numel()
        elif name not in ("model.embed_tokens.weight", "lm_head.weight"):
            assert parameter.grad.abs().max() > 0, name
            touched += parameter.numel()
    assert count_parameters(network.config).active == touched


def test_a_quarter_of_r1s_flops_at_100k_tokens():
    """The M1 report: less than half at 64K, about 25 % at 100K tokens generated (arXiv 2506.13585, figure 1)."""
    config = group("minimax_m1")

    def share(length: int) -> float:
        return flops_per_token(config, length) / deepseek_r1_flops_per_token(length)

    def mean_share(length: int) -> float:
        return flops_per_token(config, length // 2) / deepseek_r1_flops_per_token(length // 2)

    assert mean_share(64_000) < 0.5
    assert share(100_000) < 0.25 < mean_share(100_000) < 0.35
    assert [f"{share(n):.2%}" in describe(config) for n in (64_000, 100_000)] == [True, True]


def test_flops_count_the_layers_products():
    config = ModelConfig()
    hidden, width, kv = 128, 128, 64
    lightning = 5 * hidden * width + 6 * 4 * 32**2 // 2
    softmax = 2 * hidden * width + 2 * hidden * kv + 4 * 4 * 32 * 10 // 2
    experts = 2 * 3 * 128 * hidden + 8 * hidden
    norms = 17 * hidden + 7 * width
    by_hand = 2 * (7 * lightning + softmax + 8 * experts + norms + 272 * hidden)
    assert flops_per_token(config, 10) == by_hand
    assert flops_per_token(config, 20) - flops_per_token(config, 10) == 10 * 4 * 4 * 32


def test_zero_stages_divide_what_they_should():
    config = group("small")
    whole = 4 * count_parameters(config).total
    need = [training_bytes(config, 8, stage) for stage in range(4)]
    assert need[0].total == 4 * whole
    assert [n.parameters for n in need] == [whole, whole, whole, whole // 8]
    assert [n.gradients for n in need] == [whole, whole, whole // 8, whole // 8]
    assert [n.optimizer for n in need] == [2 * whole, *[3 * whole // 8] * 3]
    assert need[0].total > need[1].total > need[2].total > need[3].total


@pytest.mark.parametrize(
    "arguments, said",
    [
        (["model=huge"], "model=huge: no such model; there are minimax_m1, quickstart, small, tiny"),
        (["model=checkpoint"], "model=checkpoint: add checkpoint=<folder>"),
        (["hidden_sze=3"], "hidden_sze"),
        (["hidden_size=wide"], "wide"),
        (["num_local_experts=1"], "num_experts_per_tok=2: more than num_local_experts=1"),
        (["tiny"], "tiny: arguments are written key=value"),
        (["world_size=0"], "world_size=0: must be at least 1"),
        (["checkpoint=/not/there"], "/not/there/config.json: no such file"),
    ],
)
def test_bad_arguments(arguments, said):
    with pytest.raises(ValueError) as caught:
        parse_arguments(arguments)
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_overrides_with_and_without_the_group():
    assert group("tiny", "num_local_experts=16") == group("tiny", "model.num_local_experts=16")
    assert group("tiny", "attn_type_list=[0,0,1,1,0,0,0,1]").layer_types == [0, 0, 1, 1, 0, 0, 0, 1]


def test_program():
    command = [sys.executable, "-m", "lightning_cispo.model.describe", "model=minimax_m1"]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "456.09B" in said and "45.94B" in said and "280.00 MiB" in said and "22.23%" in said
    assert "37B active" in said and "6 D^2" in said  # the assumptions
    failed = subprocess.run([*command, "nonsense=1"], capture_output=True, text=True)
    assert failed.returncode == 2 and failed.stderr.count("\n") == 1 and "nonsense" in failed.stderr


@needs_oracle
def test_of_a_checkpoint():
    config, _ = parse_arguments([f"checkpoint={ORACLE / 'packed'}"])
    assert (config.num_hidden_layers, config.vocab_size) == (4, 97)
