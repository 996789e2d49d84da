"""Experts with gradient in Triton against the reference in float64: in the interpreter, on a device in tests/gpu."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lightning_cispo.kernels.experts.moe import moe_experts
from tests.kernels.interpreted import interpreted


def inputs(tokens: int, experts: int, top_k: int, width: int, inner: int, device: str) -> list[Tensor]:
    """x, choices, weights, gate_up, down: one expert for every third token, the last for nobody."""
    generator = torch.Generator().manual_seed(tokens + width)
    scores = torch.randn(tokens, experts, generator=generator)
    scores[::3, 0] += 9
    scores[:, -1] -= 99
    weight, expert = scores.softmax(-1).topk(top_k, dim=-1)
    shapes = ((tokens, width), (experts, 2 * inner, width), (experts, width, inner))
    x, gate_up, down = (torch.randn(shape, generator=generator) / shape[-1] ** 0.25 for shape in shapes)
    return [tensor.to(device) for tensor in (x, expert, weight, gate_up, down)]


def outcome(experts, given: list[Tensor], dtype: torch.dtype) -> list[Tensor]:
    """Output and gradients with respect to x, the weights and both stacks, in float64."""
    x, expert, weight, gate_up, down = given
    wide = torch.promote_types(dtype, torch.float32)
    leaves = [x.to(dtype), weight.to(wide), gate_up.to(wide), down.to(wide)]
    leaves = [leaf.detach().requires_grad_() for leaf in leaves]
    y = experts(leaves[0], expert, *leaves[1:])
    dy = torch.randn(y.shape, generator=torch.Generator().manual_seed(3)).to(y.device, y.dtype)
    return [found.detach().double() for found in (y, *torch.autograd.grad(y, leaves, dy))]


def errors(found: list[Tensor], exact: list[Tensor]) -> list[float]:
    return [float((a - b).norm() / b.norm().clamp(min=1e-12)) for a, b in zip(found, exact, strict=True)]


def looped(x: Tensor, expert: Tensor, weight: Tensor, gate_up: Tensor, down: Tensor) -> Tensor:
    """The loop over experts, on the CPU: the torch reference."""
    cpu = [tensor.cpu() for tensor in (x, expert, weight, gate_up, down)]
    with torch.enable_grad():
        return moe_experts(*cpu).to(x.device)


def check(device: str, dtype: torch.dtype, shape: tuple[int, int, int, int, int]) -> None:
    """Errors at most twice the reference's in the same dtype; idle experts' gradients zero; the same bits each time.

    And the same output where nothing is kept for a gradient.
    """
    from lightning_cispo.kernels.experts.train_triton import TrainedExperts

    given = inputs(*shape, device)
    exact = outcome(looped, given, torch.float64)
    found, again = (outcome(TrainedExperts.apply, given, dtype) for _ in range(2))
    plain = errors(outcome(looped, given, dtype), exact)
    for index, (ours, theirs) in enumerate(zip(errors(found, exact), plain, strict=True)):
        assert ours <= max(2 * theirs, 1e-6), (index, ours, theirs, dtype, shape)
    assert all(torch.equal(a, b) for a, b in zip(found, again, strict=True))
    x, expert, *others = given
    others = [other.to(torch.promote_types(dtype, torch.float32)) for other in others]
    assert torch.equal(TrainedExperts.apply(x.to(dtype), expert, *others, False).double(), found[0])
    assert not found[3][-1].any() and not found[4][-1].any()


def check_numbering(device: str, shapes: list[tuple[int, int, int]]) -> None:
    """As a stable sort numbers the choices."""
    from lightning_cispo.kernels.experts.rows_triton import BLOCK_ROWS, number_rows

    for tokens, experts, top_k in shapes:
        expert = torch.rand(tokens, experts, generator=torch.Generator().manual_seed(0)).topk(top_k).indices
        rows = number_rows(expert.to(device), experts)
        counts = torch.bincount(expert.flatten(), minlength=experts)
        assert torch.equal(rows.counts_E.cpu().long(), counts)
        ends = ((counts + BLOCK_ROWS - 1) // BLOCK_ROWS * BLOCK_ROWS).cumsum(0)
        assert torch.equal(rows.ends_E.cpu().long(), ends)
        wanted = torch.full((len(rows.source_N),), -1)
        for e, first in enumerate([0, *ends[:-1].tolist()]):
            wanted[first : first + counts[e]] = (expert.flatten() == e).nonzero().squeeze(1)
        assert torch.equal(rows.source_N.cpu().long(), wanted)
        assert torch.equal(wanted[rows.place_TK.cpu().long()], torch.arange(expert.numel()).view_as(expert))


@pytest.fixture
def small_tiles(monkeypatch):
    """So that few rows are several tiles; the interpreter takes a second for each thousand programs."""
    from lightning_cispo.kernels.experts import rows_triton, train_triton

    monkeypatch.setattr(rows_triton, "BLOCK_ROWS", 16)
    for name, size in {"BLOCK_ROWS": 16, "_COLUMNS": 32, "_BK": 16, "_PROGRAMS": 3}.items():
        monkeypatch.setattr(train_triton, name, size)


CASES = [(50, 5, 2, 40, 24), (1, 3, 1, 8, 8), (33, 4, 3, 32, 16)]


@interpreted
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("case", CASES)
def test_in_the_interpreter(small_tiles, case, dtype):
    check("cpu", dtype, case)


@interpreted
def test_numbering_in_the_interpreter():
    check_numbering("cpu", [(1, 1, 1), (700, 32, 3), (600, 5, 2)])
