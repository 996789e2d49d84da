"""The presets of `algorithm=`, and the overrides that docs/algorithm.md gives for each paper."""

from __future__ import annotations

import math
import re
import shlex

import pytest

from lightning_cispo.configs.load import load_config
from lightning_cispo.configs.schema import AlgorithmConfig, Contrast, Normalization
from lightning_cispo.configs.usage import groups
from tests.conftest import ROOT

PAGE = (ROOT / "docs" / "algorithm.md").read_text()


def preset(name: str) -> AlgorithmConfig:
    return load_config([f"algorithm={name}"]).algorithm


def test_the_default_is_cispo_and_cispo_is_the_schema():
    assert load_config([]).algorithm == preset("cispo") == AlgorithmConfig()


@pytest.mark.parametrize(
    ("name", "mask", "weight_max", "eps_high", "std", "normalization"),
    [
        ("grpo", True, math.inf, 0.2, True, Normalization.sample),
        ("dapo", True, math.inf, 0.28, True, Normalization.batch),
        ("dr_grpo", True, math.inf, 0.2, False, Normalization.constant),
        ("unified", True, 5.0, 0.2, True, Normalization.prompt),
    ],
)
def test_presets(name, mask, weight_max, eps_high, std, normalization):
    found = preset(name)
    assert (found.unified_mask, found.is_weight_max, found.eps_high) == (mask, weight_max, eps_high)
    assert (found.advantage_std, found.normalization) == (std, normalization)
    assert found.dynamic_sampling == (name in ("dapo", "unified"))
    assert (found.contrast is Contrast.correct) == (name == "dapo"), "DAPO looks at correctness alone"


def test_a_key_of_an_experiment_or_of_the_command_line_wins_over_the_preset():
    assert load_config(["experiment=quickstart", "algorithm=grpo"]).algorithm.group_size == 8
    assert load_config(["algorithm=grpo", "algorithm.eps_high=0.3"]).algorithm.eps_high == 0.3


def test_every_preset_is_on_the_page():
    named = set(re.findall(r"`[^`]*algorithm=(\w+)[^`]*`", PAGE))
    assert named == set(groups()["algorithm"])


def test_every_line_of_the_paper_index_is_a_configuration():
    rows = re.findall(r"^\|.*\| `(algorithm[.=][^`]+)` \|$", PAGE, re.MULTILINE)
    assert len(rows) == 8
    for row in rows:
        load_config(shlex.split(row))
