from __future__ import annotations

from pathlib import Path

import pytest

from lightning_cispo.model.checkpoint import save
from tests.model.small import CONFIG, network


@pytest.fixture
def saved(tmp_path) -> Path:
    """A checkpoint in several shards: the small network with seed 1."""
    save(tmp_path / "saved", CONFIG, network(1).named_parameters(), max_shard_bytes=30_000)
    assert len(list((tmp_path / "saved").glob("model-*.safetensors"))) > 3
    return tmp_path / "saved"
