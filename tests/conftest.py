"""What all tests share: no network, no usage reports, the same examples every time."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from hypothesis import settings

from tests.launch.cluster import two_nodes

__all__ = ["ROOT", "shared", "two_nodes"]

ROOT = Path(__file__).parents[1]

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # read as kernels are defined, so before any is imported

os.environ.update(
    HF_HUB_OFFLINE="1",
    TOKENIZERS_PARALLELISM="false",
    RAY_USAGE_STATS_ENABLED="0",
    WANDB_SILENT="true",
)
settings.register_profile("tests", deadline=None, derandomize=True)
settings.load_profile("tests")


@pytest.fixture(scope="session")
def shared() -> Path:
    """Material beside the repository; tests that read it are skipped where there is none."""
    folder = ROOT.parent / "shared"
    if not folder.is_dir():
        pytest.skip("../shared is absent")
    return folder
