"""Lightning attention beside flash-linear-attention: `python -m tests.benchmarks.lightning`, a part of `.kernels`.

bf16, fresh random inputs, medians; the floor is the device's measured copy rate over q, k, v read and o written once
(backward: do, q, k, v read and three gradients written besides). Without the peer's package its columns stay empty.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from lightning_cispo.kernels.lightning import lightning_attention, lightning_decode
from tests.benchmarks.device import Row, beside, copy_rate, milliseconds, table

SHAPES = [  # lengths of the packed rows, heads, dims
    ([1024] * 32, 64, 128),
    ([8192] * 4, 64, 128),
    ([32768], 64, 128),
    ([131072], 64, 128),
    ([1, 37, 16384, 512, 4096, 3, 2048, 9687], 64, 128),
    ([1024] * 32, 16, 64),
    ([32768], 16, 64),
    ([1 << 20], 8, 128),
]


def peer() -> Callable[..., Tensor] | None:
    try:
        from fla.ops.simple_gla import chunk_simple_gla
    except ImportError:
        return None

    def run(q: Tensor, k: Tensor, v: Tensor, slopes: Tensor, cu_seqlens: Tensor) -> Tensor:
        o, _ = chunk_simple_gla(q[None], k[None], v[None], g_gamma=-slopes.float(), scale=1.0, cu_seqlens=cu_seqlens)
        return o[0]

    return run


def attention_rows(lengths: list[int], heads: int, dim: int, rate: float) -> Iterator[Row]:
    tokens, theirs = sum(lengths), peer()
    q, k, v, do = (torch.randn(tokens, heads, dim, device="cuda", dtype=torch.bfloat16) for _ in range(4))
    slopes = torch.linspace(0.9, 1e-3, heads, device="cuda")
    cu_seqlens = torch.tensor([0, *lengths], device="cuda").cumsum(0)
    leaves = [x.requires_grad_() for x in (q, k, v)]

    def measured(side: Callable[..., Tensor]) -> tuple[float, float]:
        with torch.no_grad():
            forward = milliseconds(lambda: side(*leaves, slopes, cu_seqlens))
        return forward, milliseconds(lambda: torch.autograd.grad(side(*leaves, slopes, cu_seqlens), leaves, do))

    ours = measured(lambda *given: lightning_attention(*given)[0])
    other = measured(theirs) if theirs else None
    floor = 4 * q.nbytes / rate * 1e3
    name = f"{len(lengths)} x {lengths[0]}" if len(set(lengths)) == 1 else "mixed, 1 to 16384"
    for index, (what, share) in enumerate((("forward", 1.0), ("forward + backward", 2.75))):
        spent = ours[index]
        cells = beside(spent, "flash-linear-attention", other[index]) if other else [f"{spent:.2f} ms", "", ""]
        least = floor * share
        yield [f"lightning {what}, {name}, H {heads}, D {dim}", *cells, f"{least / spent:.0%} of {least:.2f} ms"]


def decode_row(batch: int, rate: float) -> Row:
    q, k, v = torch.randn(batch, 64, 3 * 128, device="cuda", dtype=torch.bfloat16).split(128, -1)
    state = torch.randn(batch, 64, 128, 128, device="cuda")
    slopes = torch.linspace(0.9, 1e-3, 64, device="cuda")
    spent = milliseconds(lambda: lightning_decode(q, k, v, slopes, state))
    floor = 2 * state.nbytes / rate * 1e3
    return [f"lightning decode, batch {batch}, H 64, D 128", f"{spent:.3f} ms", "", "", f"{floor / spent:.0%}"]


def rows() -> Iterator[Row]:
    rate = copy_rate()
    for shape in SHAPES:
        yield from attention_rows(*shape, rate)
    for batch in (64, 256, 1024):
        yield decode_row(batch, rate)


if __name__ == "__main__":
    table(rows)
