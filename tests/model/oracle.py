"""The parity fixtures: small random checkpoints with what an independent float64 implementation computes from them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from lightning_cispo.configs.schema import ModelConfig
from lightning_cispo.model.hf_config import from_hf
from lightning_cispo.model.layout import parameter_shapes, pieces
from lightning_cispo.model.network import MiniMax

SHARED = Path(__file__).parents[2].parent / "shared"
ORACLE = SHARED / "oracle"
RELEASE = SHARED / "checkpoint" / "minimax-m1"
FIXTURES = ("full_rope", "partial_rope", "packed")

needs_oracle = pytest.mark.skipif(not ORACLE.is_dir(), reason="../shared/oracle is not there")
needs_release = pytest.mark.skipif(not RELEASE.is_dir(), reason="../shared/checkpoint/minimax-m1 is not there")


def config_of(name: str) -> ModelConfig:
    return from_hf(json.loads((ORACLE / name / "config_original.json").read_text()))


def from_disk(config: ModelConfig, tensors: dict[str, Tensor], prefix: str = "") -> dict[str, Tensor]:
    """In-memory parameters out of tensors with the release's keys, without the reader that other tests are about."""
    return {
        name: torch.cat([tensors[prefix + part.key].flatten() for part in pieces(name, shape)]).view(shape)
        for name, shape in parameter_shapes(config).items()
    }


def network_of(name: str, dtype: torch.dtype) -> MiniMax:
    config = config_of(name)
    network = MiniMax(config, compute_dtype=dtype).to(dtype)
    network.load_state_dict(from_disk(config, load_file(ORACLE / name / "model.safetensors")))
    return network


def rows_of(name: str) -> tuple[dict[str, Tensor], Tensor, Tensor]:
    """The fixture's tensors, and its tokens as one packed row with borders."""
    fixture = load_file(ORACLE / name / "fixture.safetensors")
    batch, length = fixture["input_ids"].shape
    borders = fixture.get("cu_seqlens", torch.arange(batch + 1) * length).long()
    return fixture, fixture["input_ids"].flatten(), borders


def worst(ours: Tensor, theirs: Tensor) -> float:
    """Largest difference relative to the largest element."""
    assert ours.shape == theirs.shape
    return ((ours.double() - theirs.double()).abs().max() / theirs.abs().max()).item()
