"""Forward and backward of the 951M network beside transformers' MiniMax, and how the rate holds at length.

    python -m tests.benchmarks.learner [--no-peer] [--profile] [--repeats N]

On a GPU: bf16 activations over float32 master weights, random ones; packed rows of random tokens; the gradient of a
weighted sum of log-probabilities, as the learner has it; four micro-batches one after the other, as in a learner's
update, during which the host waits for nothing. transformers' network has bf16 weights and padded rows.
"""

from __future__ import annotations

import argparse
import gc
from collections.abc import Callable, Sequence
from statistics import median
from typing import Any, NamedTuple

import torch

from configs.schema import SOFTMAX
from model.network import MiniMax
from tests.benchmarks import generation

DEVICE = torch.device("cuda")
MICRO_BATCHES = 4  # of one update


class Measured(NamedTuple):
    seconds: float
    softmax_s: float  # within the softmax layers' attention, recomputation included
    tokens: int
    bytes: int  # at most allocated

    @property
    def rate(self) -> float:
        return self.tokens / self.seconds

    @property
    def outside_us(self) -> float:
        """Microseconds a token outside the softmax layers."""
        return 1e6 * (self.seconds - self.softmax_s) / self.tokens


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


def timed(step: Callable[[], None], tokens: int, repeats: int, watch: Stopwatch | None = None) -> Measured:
    """Medians over runs of MICRO_BATCHES steps, after two steps of warming up."""
    spans, within = [], []
    for _ in range(2):
        step()
    torch.cuda.reset_peak_memory_stats()
    if watch:
        watch.seconds()
    for _ in range(repeats):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize()
        start.record()
        for _ in range(MICRO_BATCHES):
            step()
        end.record()
        within.append(watch.seconds() / MICRO_BATCHES if watch else 0.0)
        torch.cuda.synchronize()
        spans.append(start.elapsed_time(end) / 1e3 / MICRO_BATCHES)
    return Measured(median(spans), median(within), tokens, torch.cuda.max_memory_allocated())


def our_step(network: MiniMax, sequences: int, length: int) -> Callable[[], None]:
    tokens_T = torch.randint(network.config.vocab_size, (sequences * length,), device=DEVICE)
    cu_seqlens = torch.arange(0, sequences * length + 1, length, device=DEVICE)
    weight_T = torch.randn(sequences * length, device=DEVICE) / (sequences * length)

    parameters = list(network.parameters())

    def step() -> None:
        logprobs_T, _, _ = network.logprobs(tokens_T, cu_seqlens)
        (logprobs_T * weight_T).sum().backward()
        forget(parameters)

    return step


def peer_step(peer: Any, sequences: int, length: int) -> Callable[[], None]:
    ids = torch.randint(peer.config.vocab_size, (sequences, length), device=DEVICE)

    parameters = list(peer.parameters())

    def step() -> None:
        peer(input_ids=ids, labels=ids, use_cache=False).loss.backward()
        forget(parameters)

    return step


def forget(parameters: Sequence[torch.nn.Parameter]) -> None:
    """`zero_grad` without its walk over the modules."""
    for parameter in parameters:
        parameter.grad = None


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


def main(arguments: Sequence[str] | None = None) -> None:
    options = _options(arguments)
    if not torch.cuda.is_available():
        print("no GPU here: nothing measured")
        return
    config = generation.shape("small")
    theirs = None
    if not options.no_peer:
        with DEVICE:
            peer = generation.peer(config, DEVICE)
        theirs = timed(peer_step(peer, 8, 2048), 8 * 2048, options.repeats)
        del peer
        _collect()
    network = generation.network(config, DEVICE)
    layers = zip(network.model.layers, config.layer_types, strict=True)
    watch = Stopwatch([layer.self_attn for layer, kind in layers if kind == SOFTMAX])
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, forward + backward, 951M\n")
    print("| rows | checkpointing | tok/s | ms | softmax layers | us a token outside them | GiB |\n|" + "---|" * 7)
    if theirs:
        _show("transformers, 8 x 2048", "off", theirs)
    for sequences, length, kept in ((8, 2048, False), (1, 16384, False), (8, 2048, True), (1, 131072, True)):
        network.checkpoint_activations = kept
        step = our_step(network, sequences, length)
        found = timed(step, sequences * length, options.repeats if length < 1 << 17 else 2, watch)
        _show(f"{sequences} x {length}", "on" if kept else "off", found)
        if theirs and (length, kept) == (2048, False):
            print(f"| ratio | | {found.rate / theirs.rate:.2f}x | | | | |", flush=True)
        _collect()
    if options.profile:  # at the end, because it slows down every launch after it
        network.checkpoint_activations = False
        print(profile(our_step(network, 8, 2048)), flush=True)


def _show(rows: str, kept: str, found: Measured) -> None:
    cells = [rows, kept, f"{found.rate:,.0f}", f"{1e3 * found.seconds:.1f}"]
    cells += [f"{found.softmax_s / found.seconds:.1%}", f"{found.outside_us:.3f}"] if found.softmax_s else ["", ""]
    print(f"| {' | '.join([*cells, f'{found.bytes / 2**30:.1f}'])} |", flush=True)


def _collect() -> None:
    gc.collect()
    torch.cuda.empty_cache()


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--no-peer", action="store_true")
    parser.add_argument("--profile", action="store_true", help="print our GPU kernels by time, at 8 x 2048")
    parser.add_argument("--repeats", type=int, default=5)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
