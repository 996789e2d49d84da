"""Triton's kernels where there is no GPU: `tests/conftest.py` has Triton interpret them."""

from __future__ import annotations

import importlib.util

import pytest
import torch

interpreted = pytest.mark.skipif(
    torch.cuda.is_available() or importlib.util.find_spec("triton") is None,
    reason="Triton is absent, or compiles for a GPU, where tests/gpu runs its kernels",
)
