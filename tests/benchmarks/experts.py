"""A layer's experts, forward and backward, beside the dense matrix product: `python -m tests.benchmarks.experts`.

The peer is the same layer in torch: gather, `grouped_mm`, SwiGLU and `index_add` under autograd. Random rows, routed at
random, so that no expert has as many rows as another; bf16 weights. FLOPs are those of the nine products a row has.
"forward" is without gradient, which then keeps nothing for one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from lightning_cispo.kernels.experts.moe import grouped_experts, moe_experts
from tests.benchmarks.device import Row, beside, milliseconds, table

SHAPES = [(32, 32768, 2048, 1408), (16, 32768, 1024, 1024)]  # experts, rows, width, inner width; two rows a token


def dense_rate(rows: int, width: int, columns: int) -> float:
    """FLOP/s of one bf16 product of that shape."""
    a = torch.randn(rows, width, device="cuda", dtype=torch.bfloat16)
    b = torch.randn(columns, width, device="cuda", dtype=torch.bfloat16)
    return 2 * rows * width * columns / milliseconds(lambda: a @ b.T) * 1e3


def inputs(experts: int, rows: int, width: int, inner: int) -> tuple[list[Tensor], Tensor, Tensor]:
    """x, routing weights, gate_up and down; the choices [T, 2]; the output's gradient."""
    tokens = rows // 2
    x, dy = (torch.randn(tokens, width, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    gate_up, down = (
        torch.randn(experts, *shape, device="cuda", dtype=torch.bfloat16) * shape[1] ** -0.5
        for shape in ((2 * inner, width), (width, inner))
    )
    weight, expert = torch.randn(tokens, experts, device="cuda").softmax(-1).topk(2)
    return [tensor.requires_grad_() for tensor in (x, weight, gate_up, down)], expert, dy


def rows_of(experts: int, rows: int, width: int, inner: int) -> Iterator[Row]:
    leaves, expert, dy = inputs(experts, rows, width, inner)
    flops = 6 * rows * width * inner
    rate = dense_rate(rows, width, inner)

    def spent(side: Callable[..., Tensor]) -> tuple[float, float]:
        x, weight, gate_up, down = leaves

        def forward() -> Tensor:
            return side(x, expert, weight, gate_up, down)

        with torch.no_grad():
            alone = milliseconds(forward)
        return alone, milliseconds(lambda: torch.autograd.grad(forward(), leaves, dy))

    ours, theirs = spent(moe_experts), spent(grouped_experts)
    for index, (what, times) in enumerate((("forward", 1), ("forward + backward", 3))):
        name = f"experts {what}, {experts} x {width} x {inner}, {rows} rows"
        share = times * flops / ours[index] * 1e3 / rate
        dense = f"{share:.0%} of {rate / 1e12:.0f} TFLOP/s (dense)"
        yield [name, *beside(ours[index], "torch, grouped_mm", theirs[index]), dense]


def rows() -> Iterator[Row]:
    for shape in SHAPES:
        yield from rows_of(*shape)


if __name__ == "__main__":
    table(rows)
