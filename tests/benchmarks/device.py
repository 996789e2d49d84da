"""Timing on a GPU, and a table's rows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
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


class Stopwatch:
    """GPU time within modules, forward, recomputed forward and backward, from events on the stream."""

    def __init__(self, modules: Sequence[torch.nn.Module]):
        self.marks: list[torch.cuda.Event] = []
        for module in modules:
            module.register_forward_pre_hook(lambda *_: self._mark())
            module.register_forward_hook(lambda *_: self._mark())
            module.register_full_backward_pre_hook(lambda *_: self._mark())
            module.register_full_backward_hook(lambda *_: self._mark())

    def _mark(self) -> None:
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        self.marks.append(event)

    def seconds(self) -> float:
        """Since the last call; waits for the device."""
        torch.cuda.synchronize()
        pairs = zip(self.marks[::2], self.marks[1::2], strict=True)
        spent = sum(start.elapsed_time(end) for start, end in pairs) / 1e3
        self.marks.clear()
        return spent


def profile(step: Callable[[], None], steps: int = 3) -> str:
    """GPU kernels by time, of one step on average."""
    step()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as found:
        for _ in range(steps):
            step()
        torch.cuda.synchronize()
    spent: dict[str, list[float]] = {}
    for event in found.events():
        if event.device_type == torch.autograd.DeviceType.CUDA:
            spent.setdefault(event.name, []).append(event.device_time)
    total = sum(map(sum, spent.values())) / steps
    lines = [f"{total / 1e3:.2f} ms in {sum(map(len, spent.values())) // steps} kernels a step"]
    for name, times in sorted(spent.items(), key=lambda item: -sum(item[1]))[:45]:
        lines.append(
            f"{sum(times) / steps / 1e3:7.2f} ms {len(times) / steps:6.1f} x {median(times):8.1f} us  {name[:110]}"
        )
    return "\n".join(lines)


def copy_rate() -> float:
    """Bytes a second, read and write together."""
    source = torch.empty(1 << 30, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    return 2 * len(source) / milliseconds(lambda: target.copy_(source)) * 1e3


def product_rate() -> float:
    """FLOP/s of a dense bf16 product, 8192 x 8192 x 8192."""
    a, b = torch.randn(2, 8192, 8192, device="cuda", dtype=torch.bfloat16)
    return 2 * 8192**3 / milliseconds(lambda: torch.mm(a, b)) * 1e3


Row = list[str]  # cells of the table below


def table(*parts: Callable[[], Iterable[Row]]) -> None:
    """One table of what the parts measure, row by row. "of the floor": how near to what the device allows."""
    if not torch.cuda.is_available():
        print("no GPU here: nothing measured")
        return
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, copy {copy_rate() / 1e12:.2f} TB/s\n")
    show(["what", "ours", "peer", "ratio", "of the floor"])
    show(["---"] * 5)
    for part in parts:
        for row in part():
            show(row)
        torch.cuda.empty_cache()


def beside(ours_ms: float, peer: str, peer_ms: float) -> Row:
    """The cells for ours, peer and ratio."""
    return [f"{ours_ms:.2f} ms", f"{peer_ms:.2f} ms ({peer})", f"{peer_ms / ours_ms:.2f}x"]


def show(cells: Row) -> None:
    print(f"| {' | '.join(cells)} |", flush=True)
