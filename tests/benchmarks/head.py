"""LM head to log-probabilities, forward and backward, against torch with all logits in memory and Liger's fused loss.

`python -m tests.benchmarks.head`; part of `python -m tests.benchmarks.kernels`. Milliseconds are medians, memory is the
peak above the inputs with both gradients in it, errors are the largest of a log-probability against float64. The floor
is three products of this shape at the rate measured here: one for the logits, two for the gradients.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_cispo.kernels.head.logprobs import head_logprobs
from tests.benchmarks.device import Row, milliseconds, table

TOKENS, WIDTH, VOCABULARY = 8192, 2048, 200_064
Side = Callable[[Tensor, Tensor, Tensor], Tensor]  # log-probabilities [T]


def ours(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    return head_logprobs(hidden, weight, targets)[0]


def plain(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    logits = F.linear(hidden, weight.to(hidden.dtype)).float()
    return logits.log_softmax(-1).gather(1, targets[:, None]).squeeze(1)


def liger() -> Side | None:
    """The sum alone: it forms its gradients in forward, before a loss that weighs log-probabilities could."""
    try:
        from liger_kernel.transformers import LigerFusedLinearCrossEntropyLoss
    except ImportError:
        return None
    loss = LigerFusedLinearCrossEntropyLoss(reduction="sum")
    return lambda hidden, weight, targets: -loss(weight, hidden, targets)


def cost(side: Side, hidden: Tensor, weight: Tensor, targets: Tensor) -> tuple[float, float]:
    """Milliseconds of forward and backward, GiB above the inputs."""
    leaves = [x.detach().requires_grad_() for x in (hidden, weight)]

    def step() -> None:
        for leaf in leaves:
            leaf.grad = None
        side(leaves[0], leaves[1], targets).sum().backward()

    spent = milliseconds(step, times=7)
    for leaf in leaves:
        leaf.grad = None
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    step()
    return spent, (torch.cuda.max_memory_allocated() - before) / 2**30


@torch.no_grad()
def error(side: Side, hidden: Tensor, weight: Tensor, targets: Tensor, rows: int = 256) -> float:
    logits = hidden[:rows].double() @ weight.double().T
    exact = logits.gather(1, targets[:rows, None]).squeeze(1) - logits.logsumexp(-1)
    return float((side(hidden[:rows], weight, targets[:rows]).double() - exact).abs().max())


def rows() -> Iterator[Row]:
    """Ours by its weight's dtype, beside each peer, which has a bf16 weight."""
    hidden = torch.randn(TOKENS, WIDTH, device="cuda").bfloat16()
    master = torch.randn(VOCABULARY, WIDTH, device="cuda") * 3 / WIDTH**0.5
    targets = torch.randint(0, VOCABULARY, (TOKENS,), device="cuda")
    weight = master.bfloat16()
    floor = 3 * milliseconds(lambda: torch.mm(hidden, weight.T), times=5)

    def measured(side: Side, matrix: Tensor, wrong: bool = True) -> tuple[float, str]:
        spent, memory = cost(side, hidden, matrix, targets)
        torch.cuda.empty_cache()
        off = f", off by {error(side, hidden, matrix, targets):.1e}" if wrong else ""
        return spent, f"{spent:.1f} ms, {memory:.2f} GiB{off}"

    fused = liger()
    peers = {"torch, all logits": measured(plain, weight)} | (
        {"Liger": measured(fused, weight, False)} if fused else {}
    )
    for kind, matrix in (("bf16", weight), ("float32", master)):
        spent, cell = measured(ours, matrix)
        for peer, (other, their_cell) in peers.items():
            name = f"LM head forward + backward, {TOKENS:,} x {WIDTH:,} x {VOCABULARY:,}, {kind} weight"
            share = f"{floor / spent:.0%} of {floor:.1f} ms"
            yield [name, cell, f"{their_cell} ({peer})", f"{other / spent:.2f}x", share]


if __name__ == "__main__":
    table(rows)
