"""Softmax attention over packed rows on the device, against float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lightning_cispo.kernels import attention
from lightning_cispo.kernels.attention import _varlen_reference, varlen_attention

if not torch.cuda.is_available():
    pytest.skip("needs a GPU", allow_module_level=True)


def inputs(lengths: list[int], context: list[int], heads: int, kv_heads: int, dim: int) -> dict[str, Tensor]:
    keys = [n + c for n, c in zip(lengths, context, strict=True)]
    generator = torch.Generator("cuda").manual_seed(0)
    q = torch.randn(sum(lengths), heads, dim, device="cuda", generator=generator)
    k, v = torch.randn(2, sum(keys), kv_heads, dim, device="cuda", generator=generator)
    grad = torch.randn(q.shape, device="cuda", generator=generator)
    found = {name: x.bfloat16() for name, x in {"q": q, "k": k, "v": v, "grad": grad}.items()}
    borders = {name: torch.tensor([0, *of], device="cuda").cumsum(0) for name, of in (("cu", lengths), ("cu_k", keys))}
    return found | borders


def outcome(given: dict[str, Tensor], attention, dtype: torch.dtype) -> list[Tensor]:
    leaves = [given[name].detach().to(dtype).requires_grad_() for name in "qkv"]
    o = attention(*leaves, given["cu"], given["cu"] if torch.equal(given["cu"], given["cu_k"]) else given["cu_k"])
    return [x.detach().double() for x in (o, *torch.autograd.grad(o, leaves, given["grad"].to(dtype)))]


@pytest.mark.parametrize("context", [[0, 0, 0, 0, 0], [4, 0, 0, 310, 2]])
@pytest.mark.parametrize(("heads", "kv_heads", "dim"), [(4, 4, 64), (8, 2, 128), (4, 1, 24)])
def test_against_float64(heads, kv_heads, dim, context):
    given = inputs([1, 600, 0, 77, 300], context, heads, kv_heads, dim)
    exact = outcome(given, _varlen_reference, torch.float64)
    plain = outcome(given, _varlen_reference, torch.bfloat16)
    found, again = (outcome(given, varlen_attention, torch.bfloat16) for _ in range(2))
    for name, ours, theirs, true in zip(("o", "dq", "dk", "dv"), found, plain, exact, strict=True):
        assert (ours - true).norm() <= 2 * (theirs - true).norm(), name
    same = [torch.equal(a, b) for a, b in zip(found, again, strict=True)]
    assert all(same[:1] if any(context) else same)  # left context is for generation, which takes no gradients


def test_one_long_sequence(monkeypatch):
    monkeypatch.setattr(attention, "_LONG", 500)
    given = inputs([700], [0], 8, 2, 128)
    exact, plain = (outcome(given, attention._varlen_reference, dtype) for dtype in (torch.float64, torch.bfloat16))
    for ours, theirs, true in zip(outcome(given, varlen_attention, torch.bfloat16), plain, exact, strict=True):
        assert (ours - true).norm() <= 2 * (theirs - true).norm()


@pytest.mark.parametrize("lengths", [[100, 200], [8192]])
def test_nothing_waits_for_the_device(lengths):
    given = inputs(lengths, [0] * len(lengths), 4, 2, 64)
    leaves = [given[name].requires_grad_() for name in "qkv"]
    varlen_attention(*leaves, given["cu"]).sum().backward()
    torch.cuda.synchronize()
    try:
        torch.cuda.set_sync_debug_mode("error")
        varlen_attention(*leaves, given["cu"]).sum().backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")
