"""Softmax attention in C: its values and gradients, and which bits depend on what."""

import shutil

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lightning_cispo.kernels.attention import varlen_attention

pytestmark = pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")
# A block of queries has 192, a block of keys 256.
LENGTHS = (1, 5, 16, 63, 64, 65, 191, 192, 193, 257, 400)


@pytest.fixture(autouse=True)
def threads():
    held = torch.get_num_threads()
    yield
    torch.set_num_threads(held)


def rows(lengths: list[int], heads: int, kv_heads: int, dim: int, before: list[int] | None = None) -> list[Tensor]:
    """q, k, v and the borders of queries and keys."""
    generator = torch.Generator().manual_seed(sum(lengths) + dim)
    keys = [n + b for n, b in zip(lengths, before or [0] * len(lengths), strict=True)]
    made = [(sum(lengths), heads), (sum(keys), kv_heads), (sum(keys), kv_heads)]
    borders = [torch.tensor([0, *each]).cumsum(0) for each in (lengths, keys)]
    return [torch.randn(n, h, dim, generator=generator) for n, h in made] + borders


@pytest.mark.parametrize("threads_used", [1, 3])
@pytest.mark.parametrize(("heads", "kv_heads", "dim"), [(4, 2, 16), (6, 1, 20), (2, 2, 33), (1, 1, 128)])
@pytest.mark.parametrize("before", [[0] * 5, [64, 0, 3, 300, 1]])
def test_values_and_gradients_are_those_of_float64(heads, kv_heads, dim, before, threads_used):
    torch.set_num_threads(threads_used)
    *qkv, cu, cu_k = rows([5, 0, 1, 70, 600], heads, kv_heads, dim, before)
    found = []
    for dtype in (torch.float32, torch.float64):
        leaves = [x.to(dtype).requires_grad_() for x in qkv]
        o = varlen_attention(*leaves, cu, cu_k)
        grad = torch.linspace(-1, 1, o.numel()).view_as(o).to(dtype)
        found.append([o, *torch.autograd.grad(o, leaves, grad)])
    for ours, exact in zip(*found, strict=True):
        torch.testing.assert_close(
            ours.double(), exact, rtol=0, atol=2e-6 * max(1.0, float(exact.detach().abs().max()))
        )


def test_large_scores_neither_overflow_nor_vanish():
    q, k, v, cu, cu_k = rows([300], 2, 1, 16)
    ours = varlen_attention(q * 300, k * 300, v, cu, cu_k)
    exact = varlen_attention(*(x.double() for x in (q * 300, k * 300, v)), cu, cu_k)
    assert ours.isfinite().all() and (ours - exact).abs().max() < 0.02  # scores of 1e6 have an ulp of 0.06


@settings(max_examples=30)
@given(st.lists(st.sampled_from(LENGTHS), min_size=1, max_size=5), st.integers(1, 3), st.integers(1, 3), st.booleans())
def test_a_sequence_has_its_own_bits_in_any_company(lengths, few, many, odd):
    """Forward and backward, whatever number of threads computes."""
    heads, kv_heads, dim = (3, 1, 12) if odd else (4, 2, 16)
    q, k, v, cu, _ = rows(lengths, heads, kv_heads, dim)
    grad = torch.randn(q.shape, generator=torch.Generator().manual_seed(0))

    def run(part: slice, borders: Tensor, threads: int) -> list[Tensor]:
        torch.set_num_threads(threads)
        leaves = [x[part].clone().requires_grad_() for x in (q, k, v)]
        o = varlen_attention(*leaves, borders)
        return [o, *torch.autograd.grad(o, leaves, grad[part])]

    together = run(slice(None), cu, many)
    for start, end in zip(cu[:-1].tolist(), cu[1:].tolist(), strict=True):
        alone = run(slice(start, end), torch.tensor([0, end - start]), few)
        assert all(torch.equal(own, whole[start:end]) for own, whole in zip(alone, together, strict=True))


@settings(max_examples=30)
@given(st.sampled_from(LENGTHS), st.lists(st.integers(0, 400), max_size=4), st.integers(1, 3))
def test_a_sequence_has_its_own_bits_wherever_it_is_cut(length, cuts, threads):
    torch.set_num_threads(threads)
    q, k, v, cu, cu_k = rows([length], 4, 2, 16)
    whole = varlen_attention(q, k, v, cu, cu_k)
    borders = sorted({0, length, *(cut for cut in cuts if cut < length)})
    parts = [
        varlen_attention(q[a:b], k[:b], v[:b], torch.tensor([0, b - a]), torch.tensor([0, b]))
        for a, b in zip(borders[:-1], borders[1:], strict=True)
    ]
    assert torch.equal(torch.cat(parts), whole)
