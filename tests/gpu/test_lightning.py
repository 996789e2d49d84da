"""The lightning kernels on the device."""

from __future__ import annotations

import pytest
import torch

from kernels.lightning import lightning_attention
from tests.kernels.test_lightning_triton import CASES, check

if not torch.cuda.is_available():
    pytest.skip("needs a GPU", allow_module_level=True)

LARGE = [
    ([1, 300, 64, 400, 65], 4, 128, True, None),
    ([1, 300, 64, 400, 65], 4, 128, True, 512),
    ([1500], 4, 64, False, 512),
]


@pytest.mark.parametrize("case", CASES + LARGE)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_against_float64(case, dtype, monkeypatch):
    import kernels.lightning_triton

    monkeypatch.setattr(kernels.lightning_triton, "segment_length", None)  # put back after `check` has set it
    *shape, segment = case
    check("cuda", *shape, dtype, segment)


def test_nothing_waits_for_the_device():
    q, k, v = (torch.randn(300, 2, 64, device="cuda", requires_grad=True) for _ in range(3))
    slopes, cu_seqlens = torch.rand(2, device="cuda"), torch.tensor([0, 100, 300], device="cuda")
    lightning_attention(q, k, v, slopes, cu_seqlens)[0].sum().backward()
    torch.cuda.synchronize()
    try:
        torch.cuda.set_sync_debug_mode("error")
        lightning_attention(q, k, v, slopes, cu_seqlens)[0].sum().backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")
