"""The learner's norms, activations and experts on the device."""

from __future__ import annotations

import pytest
import torch

from lightning_cispo.kernels.experts.moe import moe_experts
from lightning_cispo.kernels.linear import linear
from lightning_cispo.model.network import MiniMax
from tests.benchmarks.generation import network, shape
from tests.kernels.test_experts_triton import CASES, check, check_numbering, inputs
from tests.kernels.test_fused_triton import (
    check_choice,
    check_norms,
    check_rotation,
    check_router,
    check_silu,
    check_streams,
)

if not torch.cuda.is_available():
    pytest.skip("needs a GPU", allow_module_level=True)

HALF_AND_FULL = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])


@HALF_AND_FULL
def test_norms(dtype):
    check_norms("cuda", dtype, [(1, 24), (37, 256), (3000, 1024), (500, 8192)])


@HALF_AND_FULL
def test_streams(dtype):
    check_streams("cuda", dtype, [(1, 24), (37, 256), (3000, 1024)])


@HALF_AND_FULL
def test_silu(dtype):
    check_silu("cuda", dtype, [(1, 1, 16), (65, 3, 24), (3000, 16, 64)])


@HALF_AND_FULL
def test_router(dtype):
    check_router("cuda", dtype, [(1, 24, 5), (70, 130, 16), (5000, 1024, 16), (3000, 6144, 32)])


@HALF_AND_FULL
def test_rotation(dtype):
    check_rotation("cuda", dtype, [(1, 1, 16, 8), (3000, 16, 64, 32), (500, 6, 96, 24)])


def test_choice():
    check_choice("cuda", [(1, 1, 1), (70, 5, 3), (5000, 16, 2), (3000, 256, 8)])


def test_a_linear_map_rounds_its_float32_weight_but_not_the_gradient():
    x = torch.randn(300, 64, device="cuda", dtype=torch.bfloat16, requires_grad=True)
    weight = torch.randn(96, 64, device="cuda", requires_grad=True)
    dy = torch.randn(300, 96, device="cuda", dtype=torch.bfloat16)
    y = linear(x, weight)
    grads = torch.autograd.grad(y, [x, weight], dy)
    narrow = weight.bfloat16().double()
    for ours, exact, bound in (
        (y, x.double() @ narrow.T, 2**-8),
        (grads[0], dy.double() @ narrow, 2**-8),
        (grads[1], dy.double().T @ x.double(), 1e-6),
    ):
        assert (ours.double() - exact).norm() <= bound * exact.norm()
    assert grads[1].dtype == torch.float32
    assert torch.autograd.grad(linear(x.detach(), weight), weight, dy)[0].equal(grads[1])


@pytest.mark.parametrize("case", [*CASES, (1500, 16, 2, 512, 384), (900, 8, 4, 264, 40)])
def test_experts(case):
    check("cuda", torch.bfloat16, case)


def test_rows_are_numbered_as_a_stable_sort_does():
    check_numbering("cuda", [(1, 1, 1), (700, 32, 3), (600, 5, 2), (40_000, 16, 2), (3000, 256, 8)])


def test_experts_wait_for_nothing():
    x, expert, weight, gate_up, down = inputs(300, 8, 2, 64, 32, "cuda")
    leaves = [x.bfloat16().requires_grad_(), weight.requires_grad_(), gate_up.requires_grad_(), down.requires_grad_()]

    def run() -> None:
        moe_experts(leaves[0], expert, *leaves[1:]).sum().backward()

    run()
    torch.cuda.synchronize()
    try:
        torch.cuda.set_sync_debug_mode("error")
        run()
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_other_numbers_of_tokens_compile_nothing():
    from lightning_cispo.kernels.experts import gemm_triton, rows_triton, swiglu_triton

    kernels = [
        kernel
        for module in (gemm_triton, rows_triton, swiglu_triton)
        for name, kernel in vars(module).items()
        if name.endswith("_kernel")
    ]

    def run(tokens: int) -> int:
        """Variants compiled so far."""
        x, expert, weight, gate_up, down = inputs(tokens, 8, 2, 64, 32, "cuda")
        leaves = [x.bfloat16().requires_grad_(), *(t.requires_grad_() for t in (weight, gate_up, down))]
        moe_experts(leaves[0], expert, *leaves[1:]).sum().backward()
        return sum(len(cache[0]) for kernel in kernels for cache in kernel.device_caches.values())

    warm = run(300)
    assert warm >= 7
    assert [run(tokens) for tokens in (1, 16, 17, 1024, 5000)] == [warm] * 5


@pytest.fixture(scope="module")
def hybrid() -> MiniMax:
    config = shape("small", num_hidden_layers=2, softmax_every=2, vocab_size=512)
    return network(config, torch.device("cuda"))


@pytest.mark.parametrize("checkpointed", [False, True])
def test_a_pass_through_the_network_has_the_same_bits_each_time(hybrid, checkpointed):
    """Forward and backward: no sum depends on the order in which programs end."""
    hybrid.checkpoint_activations = checkpointed
    tokens = torch.randint(512, (3000,), device="cuda")
    cu_seqlens = torch.tensor([0, 1000, 1700, 3000], device="cuda")
    found = []
    for _ in range(2):
        hybrid.zero_grad()
        logprobs, entropy, _ = hybrid.logprobs(tokens, cu_seqlens)
        (logprobs.sum() + entropy.sum()).backward()
        found.append([logprobs.detach(), *(p.grad.clone() for p in hybrid.parameters() if p.grad is not None)])
    assert len(found[0]) == 1 + len(list(hybrid.parameters()))
    names = ["logprobs", *(name for name, _ in hybrid.named_parameters())]
    assert [n for n, a, b in zip(names, *found, strict=True) if not torch.equal(a, b)] == []


@pytest.mark.parametrize("checkpointed", [False, True])
def test_a_pass_through_the_network_waits_for_nothing(hybrid, checkpointed):
    hybrid.checkpoint_activations = checkpointed
    tokens = torch.randint(512, (3000,), device="cuda")
    cu_seqlens = torch.tensor([0, 1000, 1700, 3000], device="cuda")

    def run() -> None:
        hybrid.logprobs(tokens, cu_seqlens)[0].sum().backward()

    run()
    torch.cuda.synchronize()
    try:
        torch.cuda.set_sync_debug_mode("error")
        run()
    finally:
        torch.cuda.set_sync_debug_mode("default")
