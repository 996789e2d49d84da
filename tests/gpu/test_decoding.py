"""The kernels of a decoding step on a GPU, each by itself."""

from __future__ import annotations

import pytest
import torch

from lightning_cispo.kernels.decoding.stops import match_stops
from lightning_cispo.kernels.experts.moe import routed_experts
from lightning_cispo.kernels.lightning import lightning_decode, lightning_decode_reference
from lightning_cispo.kernels.norm.rms_norm import rms_norm_reference
from lightning_cispo.model.layers import RMSNorm
from tests.generation.stops import check_matching
from tests.kernels.test_decode_products_triton import check_experts, check_head, check_linear
from tests.kernels.test_decode_triton import check_routed, check_slots
from tests.kernels.test_paged import check_triton
from tests.kernels.test_sample_triton import check_draws, check_greedy, check_records

if not torch.cuda.is_available():
    pytest.skip("needs a CUDA device", allow_module_level=True)

GPU = torch.device("cuda")


def test_paged_attention_kernels():
    check_triton("cuda")


@pytest.mark.parametrize(("batch", "heads", "dim"), [(2, 1, 16), (5, 3, 64), (64, 16, 64), (7, 4, 96), (9, 2, 128)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_lightning_decode_kernel(batch, heads, dim, dtype):
    generator = torch.Generator(GPU).manual_seed(0)
    q, k, v = torch.randn(batch, heads, 3 * dim, device=GPU, dtype=dtype, generator=generator).split(dim, -1)
    state = torch.randn(batch, heads, dim, dim, device=GPU, generator=generator)
    slopes = torch.linspace(5e-5, 0.9, heads, dtype=torch.float64, device=GPU)
    exact = state.double()
    expected = lightning_decode_reference(q.double(), k.double(), v.double(), slopes, exact)
    out = lightning_decode(q, k, v, slopes, state)
    torch.testing.assert_close(state.double(), exact, rtol=1e-5, atol=1e-5)
    tolerance = 1e-4 if dtype is torch.float32 else 0.3
    torch.testing.assert_close(out.double(), expected, rtol=tolerance / 10, atol=tolerance)
    with pytest.raises(ValueError, match="strides"):
        lightning_decode(q.contiguous(), k, v, slopes, state)


def test_states_in_slots():
    check_slots("cuda")


def test_products_of_a_step():
    check_linear("cuda", torch.bfloat16, 1e-2)
    check_experts("cuda", torch.bfloat16, 1e-2)
    check_head("cuda", torch.bfloat16)


def test_drawing_and_recording():
    check_draws("cuda")
    check_greedy("cuda")
    check_records("cuda")
    check_matching(match_stops, "cuda")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("size", [24, 1024, 8192])
def test_rms_norm_kernel_rounds_as_torch_does(size, dtype):
    x = torch.randn(33, size, device=GPU).to(dtype)
    norm = RMSNorm(size, 1e-5).to(GPU)
    with torch.no_grad():
        norm.weight.normal_()
        fused = norm(x)
    plain, _ = rms_norm_reference(x, norm.weight.detach(), 1e-5)
    assert fused.dtype == dtype
    # One unit in the last place where a sum in another order tips a rounding.
    torch.testing.assert_close(fused, plain, rtol=1e-2 if dtype is torch.bfloat16 else 1e-5, atol=1e-6)
    assert (fused == plain).float().mean() > (0.99 if dtype is torch.bfloat16 else 0.3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_routed_experts_kernels(dtype):
    if dtype is torch.bfloat16:
        check_routed("cuda", dtype)
        return
    x, logits = torch.randn(4, 64, device=GPU), torch.randn(4, 8, device=GPU)
    with torch.no_grad():
        assert (
            routed_experts(x, logits, 2, torch.randn(8, 96, 64, device=GPU), torch.randn(8, 64, 48, device=GPU)) is None
        )
