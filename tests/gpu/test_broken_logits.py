"""Logits that are not finite, on a device: compiled kernels compare with NaN in another way than the interpreter."""

from __future__ import annotations

import pytest
import torch

from tests.kernels.test_broken_logits import check_draws, check_rosters, check_routed_rows, check_routers

if not torch.cuda.is_available():
    pytest.skip("needs a CUDA device", allow_module_level=True)


def test_routers():
    check_routers("cuda")


def test_routed_rows():
    check_routed_rows("cuda", torch.bfloat16)


@pytest.mark.parametrize("exact", [False, True])
def test_nothing_is_written_behind_the_rosters(exact):
    check_rosters("cuda", exact)


def test_draws():
    check_draws("cuda")
