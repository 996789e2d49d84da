"""Timing on a GPU, and a table's rows."""

from __future__ import annotations

from collections.abc import Callable
from statistics import median

import torch

_AHEAD = 15_000_000  # clock ticks, about 10 ms


def milliseconds(run: Callable[[], object], times: int = 15) -> float:
    """Median time on the device. It sleeps before each run, so that launching is over before what is timed begins."""
    for _ in range(3):
        run()
    spans = []
    for _ in range(times):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda._sleep(_AHEAD)
        start.record()
        run()
        end.record()
        torch.cuda.synchronize()
        spans.append(start.elapsed_time(end))
    return median(spans)


def copy_rate() -> float:
    """Bytes a second, read and write together."""
    source = torch.empty(1 << 30, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    return 2 * len(source) / milliseconds(lambda: target.copy_(source)) * 1e3


def show(cells: list[str]) -> None:
    print(f"| {' | '.join(cells)} |", flush=True)
