"""The kernels of a decoding step against torch: in Triton's interpreter here, on the device in tests/gpu."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from lightning_cispo.kernels.experts.moe import moe_experts
from lightning_cispo.kernels.lightning import lightning_decode, lightning_decode_reference
from lightning_cispo.model.layers import RMSNorm
from tests.kernels.interpreted import interpreted


def routed(tokens: int, experts: int, top_k: int, device: str, dtype: torch.dtype, seed: int) -> tuple[float, float]:
    """Relative errors of the routed experts' kernels and of torch in the same dtype, both against float64."""
    from lightning_cispo.kernels.experts.prefill_triton import routed_experts_triton

    generator = torch.Generator().manual_seed(seed)
    x, logits = (torch.randn(tokens, n, generator=generator) for n in (64, experts))
    logits[: tokens // 3, 1:] -= 50  # an expert for many, and experts for nobody
    gate_up, down = (torch.randn(experts, *n, generator=generator) / 8 for n in ((96, 64), (64, 48)))
    x, gate_up, down = (tensor.to(device, dtype) for tensor in (x, gate_up, down))
    logits = logits.to(device)
    with torch.no_grad():
        found = routed_experts_triton(x, logits, top_k, gate_up, down)
        weight, expert = logits.softmax(-1).topk(top_k, dim=-1)
        weight = weight / weight.sum(-1, keepdim=True)
        plain = moe_experts(x, expert, weight, gate_up, down)
        exact = moe_experts(
            x.double().cpu(), expert.cpu(), weight.double().cpu(), *(w.double().cpu() for w in (gate_up, down))
        )
    return tuple(float((out.double().cpu() - exact).norm() / exact.norm()) for out in (found, plain))  # type: ignore[return-value]


ROUTES = [(tokens, *shape) for tokens in (1, 20) for shape in ((16, 2), (5, 1), (32, 4))]


def check_routed(device: str, dtype: torch.dtype) -> None:
    """At most twice torch's error, on average over eight draws: one token's few numbers scatter."""
    for route in ROUTES:
        draws = 8 if device == "cuda" else 2
        ours, theirs = map(sum, zip(*(routed(*route, device, dtype, seed) for seed in range(draws)), strict=True))
        assert ours <= 2 * theirs, (route, ours / draws, theirs / draws)


def check_lightning_decode(device: str) -> None:
    from lightning_cispo.kernels.lightning.decode_triton import lightning_decode_triton

    for batch, heads, dim in ((2, 1, 16), (5, 3, 24), (3, 2, 64)):
        q, k, v = torch.randn(batch, heads, 3 * dim, device=device).split(dim, -1)
        state = torch.randn(batch, heads, dim, dim, device=device)
        slopes = torch.linspace(5e-5, 0.9, heads, dtype=torch.float64, device=device)
        exact = state.double()
        expected = lightning_decode_reference(q.double(), k.double(), v.double(), slopes, exact)
        out = lightning_decode_triton(q, k, v, slopes, state)
        torch.testing.assert_close(state.double(), exact, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(out.double(), expected, rtol=1e-4, atol=1e-4)
        with pytest.raises(ValueError, match="strides"):
            lightning_decode_triton(q.contiguous(), k, v, slopes, state)


def check_slots(device: str) -> None:
    """States in any order, rows that are idle; the rest of the states stays as it was."""
    for dim in (16, 24, 128):
        q, k, v = (torch.randn(5, 2, dim, device=device) for _ in range(3))
        slopes, state = torch.tensor([0.3, 0.01], device=device), torch.randn(7, 2, dim, dim, device=device)
        slots, busy = torch.tensor([4, -1, 0, 6, -1], device=device), [0, 2, 3]
        wanted = state.double()
        own = wanted[slots[busy]]
        expected = lightning_decode_reference(*(x[busy].double() for x in (q, k, v)), slopes.double(), own)
        wanted[slots[busy]] = own
        for decode in (lightning_decode, _triton_decode()):
            found = state.clone()
            out = decode(q, k, v, slopes, found, slots)
            torch.testing.assert_close(found.double(), wanted, rtol=1e-5, atol=1e-5)
            torch.testing.assert_close(out[busy].double(), expected, rtol=1e-4, atol=1e-4)
            assert not out[[1, 4]].any() and torch.equal(found[[1, 2, 3, 5]], state[[1, 2, 3, 5]])


def _triton_decode():
    from lightning_cispo.kernels.lightning.decode_triton import lightning_decode_triton

    return lightning_decode_triton


def check_rms_norm(device: str) -> None:
    from lightning_cispo.kernels.norm.launch import RMSNorm as Fused

    for rows, size in ((1, 24), (33, 1024), (0, 8)):
        norm = RMSNorm(size, 1e-5).to(device)
        x = torch.randn(rows, size, device=device)
        with torch.no_grad():
            norm.weight.normal_()
        found = Fused.apply(x, norm.weight.detach(), 1e-5, x.dtype, True)
        torch.testing.assert_close(found, norm(x).detach(), rtol=1e-5, atol=1e-6)


@interpreted
@pytest.mark.parametrize(
    "check",
    [
        partial(check_routed, dtype=torch.float32),
        check_lightning_decode,
        check_slots,
        check_rms_norm,
    ],
)
def test_in_the_interpreter(check):
    check("cpu")
