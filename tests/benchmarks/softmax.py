"""Softmax attention of packed rows, forward and backward, beside torch's attention of unpacked ones.

`python -m tests.benchmarks.softmax`; part of `python -m tests.benchmarks.kernels`. The floor counts 7 products of a
causal half square (2 forward, 5 backward) at the rate of a dense bf16 product measured here. torch's has no borders: it
gets a batch of rows of one length, and runs in cuDNN where that is its choice.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F

from lightning_cispo.kernels.attention import varlen_attention
from tests.benchmarks.device import Row, beside, milliseconds, product_rate, table

ANCHOR, WIDE = (16, 4, 64), (64, 8, 128)  # heads, key heads, dims
SHAPES = [(8, 2048, *ANCHOR), (1, 16384, *ANCHOR), (1, 131072, *ANCHOR), (4, 8192, *WIDE), (1, 32768, *WIDE)]


def row(rows: int, length: int, heads: int, kv_heads: int, dim: int, rate: float) -> Row:
    q = torch.randn(rows * length, heads, dim, device="cuda", dtype=torch.bfloat16, requires_grad=True)
    k, v = (torch.randn(rows * length, kv_heads, dim, device="cuda", dtype=q.dtype, requires_grad=True) for _ in "kv")
    grad = torch.randn_like(q)
    borders = torch.arange(0, rows * length + 1, length, device="cuda")

    def packed() -> None:
        torch.autograd.grad(varlen_attention(q, k, v, borders), (q, k, v), grad)

    def unpacked() -> None:
        split = (x.unflatten(0, (rows, length)).transpose(1, 2) for x in (q, k, v))
        o = F.scaled_dot_product_attention(*split, is_causal=True, enable_gqa=True)
        torch.autograd.grad(o.transpose(1, 2).flatten(0, 1), (q, k, v), grad)

    ours, theirs = milliseconds(packed), milliseconds(unpacked)
    floor = 7 * rows * heads * length**2 * dim / rate * 1e3
    name = f"softmax attention forward + backward, {rows} x {length}, H {heads}, Kv {kv_heads}, D {dim}"
    return [name, *beside(ours, "torch, unpacked", theirs), f"{floor / ours:.0%} of {floor:.2f} ms"]


def rows() -> Iterator[Row]:
    rate = product_rate()
    for shape in SHAPES:
        yield row(*shape, rate)


if __name__ == "__main__":
    table(rows)
