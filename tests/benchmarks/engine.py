"""Generation beside transformers' `generate`, and beside what the memory's bandwidth allows.

    python -m tests.benchmarks.engine [--model NAME] [--repeats N] [--no-peer] [--threads N]

On a CPU the tiny model, on a GPU the 951M one. The two sides take turns within one run.
"""

from __future__ import annotations

import argparse
import gc
import os
import platform
from collections.abc import Sequence
from statistics import median

import numpy as np
import torch

from lightning_cispo.configs.schema import ModelConfig
from lightning_cispo.model.generation.engine import Engine
from lightning_cispo.model.network import MiniMax
from tests.benchmarks import generation
from tests.benchmarks.generation import Timing

CPU, GPU = torch.device("cpu"), torch.device("cuda")


def main(arguments: Sequence[str] | None = None) -> None:
    options = _options(arguments)
    device = GPU if torch.cuda.is_available() else CPU
    if options.threads:
        torch.set_num_threads(options.threads)
    config = generation.shape(options.model or ("small" if device is GPU else "tiny"))
    print(_setting(device))
    network = generation.network(config, device)
    bandwidth = generation.copy_bandwidth(device)
    print(f"\ncopy bandwidth {bandwidth / 1e9:,.0f} GB/s\n", flush=True)
    prompt, new = (128, 256) if device is GPU else (32, 64)
    _same_lengths(network, options, (64, 256) if device is GPU else (16, 64, 256), prompt, new, bandwidth)
    _mix(network, options, device)
    if device is GPU and not options.short:
        _long_contexts(network, bandwidth)


def _same_lengths(
    network: MiniMax, options: argparse.Namespace, batches: Sequence[int], prompt: int, new: int, bandwidth: float
) -> None:
    config, device = network.config, network.lm_head.weight.device
    default = ["default", "eager"] if device.type == "cuda" else ["default"]
    kinds = [] if options.no_peer else options.peer_experts or default
    peers = {kind: generation.peer(config, device, None if kind == "default" else kind) for kind in kinds}
    print(f"{prompt} prompt tokens, {new} new, temperature 1, medians of {options.repeats}. The floor is what memory's")
    print("bandwidth alone would allow: over a peer's rate, the largest ratio that there can be.\n")
    heads = "".join(f" transformers {kind} tok/s | ratio | largest possible |" for kind in kinds)
    print(f"| batch | tok/s | ms a step | floor ms | share of floor | floor tok/s |{heads}")
    print("|" + "---|" * (6 + 3 * len(kinds)))
    for batch in batches:
        engine = Engine(network, batch, config.vocab_size, max_length=prompt + new)
        rows = generation.prompts(batch, prompt, config.vocab_size)
        generation.time_engine(engine, rows, [4] * batch)
        ours: list[Timing] = []
        theirs: dict[str, list[Timing]] = {kind: [] for kind in kinds}
        for _ in range(options.repeats):
            ours.append(generation.time_engine(engine, rows, [new] * batch))
            for kind, peer in peers.items():
                # A long generation is timed on part of its tokens: its steps are alike.
                tokens = options.peer_tokens if kind == "default" else options.peer_tokens // 4
                theirs[kind].append(generation.time_peer(peer, rows, min(new, tokens)))
        step, rate = median(t.step_s for t in ours), median(t.rate for t in ours)
        itemsize = 2 if network.compute_dtype is torch.bfloat16 else 4
        floor = generation.floor_seconds(config, batch, prompt + new // 2, bandwidth, itemsize)
        cells = [f"{batch}", f"{rate:,.0f}", f"{1e3 * step:.2f}", f"{1e3 * floor:.2f}", f"{floor / step:.0%}"]
        cells.append(f"{batch / floor:,.0f}")
        for found in theirs.values():
            other = median(t.rate for t in found)
            cells += [f"{other:,.0f}", f"{rate / other:.1f}", f"{batch / floor / other:.1f}"]
        print("| " + " | ".join(cells) + " |", flush=True)
        del engine
        _collect()


def _mix(network: MiniMax, options: argparse.Namespace, device: torch.device) -> None:
    """Log-normal lengths: transformers' batches wait for their longest."""
    count, slots, middle, cap, prompt = (1024, 256, 1024, 8192, 128) if device is GPU else (256, 64, 48, 384, 32)
    if options.short:
        count, slots = count // 4, slots // 4
    draws = np.random.default_rng(1).lognormal(np.log(middle), 0.8, count)
    lengths = np.clip(draws, 1, cap).astype(int).tolist()
    engine = Engine(
        network,
        slots,
        network.config.vocab_size,
        max_length=prompt + cap,
        kv_tokens=slots * 2 * middle,
    )
    rows = generation.prompts(count, prompt, network.config.vocab_size)
    found = generation.time_engine(engine, rows, lengths)
    batches = [(rows[i : i + slots], max(lengths[i : i + slots])) for i in range(0, count, slots)]
    print(
        f"\nMix: {count} requests, lengths log-normal with median {middle} and cap {cap}, {slots} slots: "
        f"{found.rate:,.0f} tok/s, {found.occupancy:.1%} of the slots in use until the queue was empty, "
        f"{engine.stats.steps} steps (batch after batch, each to its longest: {sum(n for _, n in batches)}), "
        f"{engine.stats.preemptions} preemptions",
        flush=True,
    )
    if device is CPU and not options.no_peer:
        peer = generation.peer(network.config, device)
        seconds = sum(generation.time_peer(peer, part, longest).seconds for part, longest in batches)
        rate = sum(lengths) / seconds
        print(f"transformers, batch after batch: {rate:,.0f} tok/s of these responses; ratio {found.rate / rate:.1f}")
    print(flush=True)
    del engine
    _collect()


def _long_contexts(network: MiniMax, bandwidth: float) -> None:
    """How the rate falls with the context, beside the same network with softmax in every layer."""
    hybrid = network.config
    dense = generation.network(_all_softmax(hybrid), GPU)
    print(
        "| context, batch 16 | ours ms a step | floor ms | share of floor | all softmax ms | its floor ms |\n|"
        + "---|" * 6
    )
    for context in (2048, 16384, 65536):
        cells = [f"{context:,}"]
        for model in (network, dense):
            step = _step_at(model, 16, context)
            floor = generation.floor_seconds(model.config, 16, context, bandwidth, 2)
            cells += [f"{1e3 * step:.2f}", f"{1e3 * floor:.2f}"] + ([f"{floor / step:.0%}"] if model is network else [])
        print("| " + " | ".join(cells) + " |", flush=True)


def _step_at(network: MiniMax, batch: int, context: int) -> float:
    """A decoding step over contexts of that length: their keys are zeros, which takes as long."""
    engine = Engine(
        network,
        batch,
        network.config.vocab_size,
        max_length=context + 128,
        kv_tokens=batch * (context + 128),
        page_tokens=64,  # as the contexts are cut below
    )
    rows = generation.prompts(batch, 64, network.config.vocab_size)
    for sequence in _begin(engine, rows):
        sequence.born -= context - 64
        sequence.pages += engine.table.pool.take(context // 64 - len(sequence.pages) + 1)
        engine.cache.set_pages(sequence.slot, [sequence.pages])
    engine.rows.position[:batch] += context - 64
    times = generation.timed_steps(engine, 40)
    del engine
    _collect()
    return median(times[10:])


def _begin(engine: Engine, rows: np.ndarray) -> list:
    from lightning_cispo.model.generation.requests import Request

    for index, row in enumerate(rows):
        engine.submit(Request(index, row, [index], 100))
    engine.step()
    return engine.table.sequences


def _all_softmax(config: ModelConfig) -> ModelConfig:
    fields = {name: value for name, value in vars(config).items() if name in ModelConfig.__dataclass_fields__}
    return ModelConfig(**(fields | {"attn_type_list": [1] * config.num_hidden_layers}))


def _collect() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="a group of configs/model; by default small on a GPU, tiny on a CPU")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--peer-tokens", type=int, default=64, help="new tokens that transformers is timed on")
    parser.add_argument(
        "--peer-experts",
        nargs="+",
        help="transformers' experts: default, eager, batched_mm, grouped_mm; others than its"
        " default are timed on a quarter of the tokens",
    )
    parser.add_argument("--threads", type=int, default=0, help="CPU threads of either side")
    parser.add_argument("--no-peer", action="store_true")
    parser.add_argument("--short", action="store_true", help="a quarter of the mix, no long contexts")
    return parser.parse_args(arguments)


def _setting(device: torch.device) -> str:
    """What the figures hold for."""
    name = torch.cuda.get_device_name() if device is GPU else f"{platform.machine()}, {torch.get_num_threads()} threads"
    return f"{name}; Python {platform.python_version()}, torch {torch.__version__}; load {os.getloadavg()[0]:.1f}"


if __name__ == "__main__":
    main()
