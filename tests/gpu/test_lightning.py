"""The lightning kernels on the device."""

from __future__ import annotations

import subprocess
import sys
from functools import partial

import pytest
import torch

from lightning_cispo.kernels.lightning import lightning_attention, lightning_reference
from tests.kernels.test_lightning_triton import CASES, check, errors

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
    from lightning_cispo.kernels.lightning import launch

    monkeypatch.setattr(launch, "segment_length", None)  # put back after `check` has set it
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


def test_other_lengths_compile_nothing():
    from lightning_cispo.kernels.lightning import segments, walk

    def run(*lengths: int) -> int:
        """Variants compiled so far."""
        q, k, v = (torch.randn(sum(lengths), 2, 32, device="cuda", requires_grad=True) for _ in range(3))
        borders = torch.tensor([0, *lengths], device="cuda").cumsum(0)
        lightning_attention(q, k, v, torch.rand(2, device="cuda"), borders)[0].sum().backward()
        kernels = (walk.walk_kernel, walk.join_kernel, segments._table_kernel)
        return sum(len(cache[0]) for kernel in kernels for cache in kernel.device_caches.values())

    warm = run(100, 30), run(9000, 7000)  # whole sequences, and sequences in segments
    assert warm[1] > warm[0]
    for lengths in ((1, 1), (64, 1), (17, 112), (16384, 1), (5000, 12345), (4096, 4096)):
        found = run(*lengths)
        assert found == warm[1], (lengths, [list(c[0]) for k in (walk.walk_kernel,) for c in k.device_caches.values()])


def test_borders_that_do_not_end_at_the_tokens_end_the_process():
    script = (
        "import torch; from kernels.lightning import lightning_attention\n"
        "x = torch.zeros(6, 2, 16, device='cuda')\n"
        "lightning_attention(x, x, x, torch.ones(2, device='cuda'), torch.tensor([0, 7], device='cuda'))\n"
        "torch.cuda.synchronize()"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode != 0 and "cu_seqlens does not end" in done.stderr


def test_a_million_tokens_in_one_row():
    """Forward and backward of all heads; the steepest and the flattest against float64."""
    q, k, v, do = (torch.randn(1 << 20, 8, 128, device="cuda", dtype=torch.bfloat16) for _ in range(4))
    slopes, cu_seqlens = torch.linspace(0.9, 1e-5, 8, dtype=torch.float64), torch.tensor([0, 1 << 20])
    slopes, cu_seqlens = slopes.cuda(), cu_seqlens.cuda()

    def outcome(attention, heads: slice, dtype: torch.dtype) -> list[torch.Tensor]:
        leaves = [x[:, heads].to(dtype).requires_grad_() for x in (q, k, v)]
        o, _ = attention(*leaves, slopes[heads], cu_seqlens)
        return [x.detach() for x in (o, *torch.autograd.grad(o, leaves, do[:, heads].to(dtype)))]

    found = outcome(lightning_attention, slice(None), torch.bfloat16)
    reference = partial(lightning_reference, chunk_size=256)  # the device waits for the host between chunks
    for head in (slice(0, 1), slice(7, 8)):
        exact = outcome(reference, head, torch.float64)
        plain = errors([x.double() for x in outcome(reference, head, torch.bfloat16)], exact)
        ours = errors([x[:, head].double() for x in found], exact)
        assert all(a <= 2 * b for a, b in zip(ours, plain, strict=True)), (ours, plain)
