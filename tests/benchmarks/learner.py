"""Forward and backward of the 951M network beside transformers' MiniMax, and how the rate holds at length.

    python -m tests.benchmarks.learner [--no-peer] [--profile] [--repeats N]

On a GPU: bf16 activations over float32 master weights, random ones; packed rows of random tokens; the gradient of a
weighted sum of log-probabilities, as the learner has it; four micro-batches one after the other, as in a learner's
update, during which the host waits for nothing. transformers' network has bf16 weights and padded rows.
"""

from __future__ import annotations

import argparse
import gc
from collections.abc import Callable, Iterator, Sequence
from statistics import median
from typing import Any, NamedTuple

import torch

from lightning_cispo.configs.schema import SOFTMAX, ModelConfig
from lightning_cispo.model.network import MiniMax
from lightning_cispo.model.sizes import flops_per_token
from tests.benchmarks import generation
from tests.benchmarks.device import Row, Stopwatch, beside, product_rate, profile, show

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


def peer_step(network: Any, sequences: int, length: int) -> Callable[[], None]:
    ids = torch.randint(network.config.vocab_size, (sequences, length), device=DEVICE)

    parameters = list(network.parameters())

    def step() -> None:
        network(input_ids=ids, labels=ids, use_cache=False).loss.backward()
        forget(parameters)

    return step


def forget(parameters: Sequence[torch.nn.Parameter]) -> None:
    """`zero_grad` without its walk over the modules."""
    for parameter in parameters:
        parameter.grad = None


class Case(NamedTuple):
    sequences: int
    length: int
    checkpointed: bool

    @property
    def name(self) -> str:
        return f"{self.sequences} x {self.length}, checkpointing {'on' if self.checkpointed else 'off'}"


CASES = Case(8, 2048, False), Case(1, 16384, False), Case(8, 2048, True), Case(1, 131072, True)


def measured(network: MiniMax, repeats: int) -> Iterator[tuple[Case, Measured]]:
    layers = zip(network.model.layers, network.config.layer_types, strict=True)
    watch = Stopwatch([layer.self_attn for layer, kind in layers if kind == SOFTMAX])
    for case in CASES:
        sequences, length, network.checkpoint_activations = case
        step = our_step(network, sequences, length)
        yield case, timed(step, sequences * length, repeats if length < 1 << 17 else 2, watch)
        _collect()


def peer(config: ModelConfig, repeats: int) -> Measured:
    """transformers' network on the first case."""
    sequences, length, _ = CASES[0]
    with DEVICE:
        made = generation.peer(config, DEVICE)
    found = timed(peer_step(made, sequences, length), sequences * length, repeats)
    del made
    _collect()
    return found


def rows(repeats: int = 5) -> Iterator[Row]:
    """For the one table of `tests.benchmarks.kernels`. The floor: FLOPs at the rate of a dense product."""
    config, rate = generation.shape("small"), product_rate()
    theirs = peer(config, repeats)
    for case, found in measured(generation.network(config, DEVICE), repeats):
        name = f"learner forward + backward, 951M, {case.name}"
        first = case == CASES[0]
        cells = beside(1e3 * found.seconds, "transformers", 1e3 * theirs.seconds) if first else [_ms(found), "", ""]
        flops = (3 + case.checkpointed) * found.tokens * flops_per_token(config, case.length // 2)
        yield [name, *cells, f"{flops / rate / found.seconds:.0%} of {1e3 * flops / rate:.1f} ms"]


def main(arguments: Sequence[str] | None = None) -> None:
    options = _options(arguments)
    if not torch.cuda.is_available():
        print("no GPU here: nothing measured")
        return
    config = generation.shape("small")
    theirs = None if options.no_peer else peer(config, options.repeats)
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, forward + backward, 951M\n")
    show(["rows", "ms", "tok/s", "of the first", "softmax layers", "us a token outside them", "GiB"])
    show(["---"] * 7)
    if theirs:
        show(["transformers, 8 x 2048", _ms(theirs), f"{theirs.rate:,.0f}", "", "", "", _gib(theirs)])
    network, first = generation.network(config, DEVICE), None
    for case, found in measured(network, options.repeats):
        first = first or found
        cells = [case.name, _ms(found), f"{found.rate:,.0f}", f"{found.rate / first.rate:.0%}"]
        show([*cells, f"{found.softmax_s / found.seconds:.1%}", f"{found.outside_us:.3f}", _gib(found)])
    if theirs and first:
        print(f"\n{first.rate / theirs.rate:.2f} times transformers' rate")
    if options.profile:  # at the end, because it slows down every launch after it
        network.checkpoint_activations = False
        print(profile(our_step(network, 8, 2048)), flush=True)


def _ms(found: Measured) -> str:
    return f"{1e3 * found.seconds:.1f} ms"


def _gib(found: Measured) -> str:
    return f"{found.bytes / 2**30:.1f}"


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
