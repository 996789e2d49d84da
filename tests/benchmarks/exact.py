"""The exact mode beside the ordinary one: whether log-probabilities agree to the bit, and what that costs.

    python -m tests.benchmarks.exact [--responses N] [--tokens N] [--threads N]

On a CPU the tiny model, on a GPU the 951M one, with random weights. The two modes take turns within one run.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lightning_cispo.configs.schema import ModelConfig
from lightning_cispo.model.generation.engine import Engine
from lightning_cispo.model.generation.randomness import stream_key
from lightning_cispo.model.generation.requests import Completion, Request
from lightning_cispo.model.network import MiniMax
from tests.benchmarks import generation

GPU = torch.cuda.is_available()
DEVICE = torch.device("cuda" if GPU else "cpu")
MODES = (False, True)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--responses", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=1024 if GPU else 64, help="of a response")
    parser.add_argument("--threads", type=int, default=0)
    options = parser.parse_args(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    config = generation.shape("small" if GPU else "tiny")
    print(torch.cuda.get_device_name() if GPU else "CPU", f"torch {torch.__version__}", flush=True)
    networks = {exact: made(config, exact) for exact in MODES}
    _agreement(networks, options.responses, options.tokens)
    for batch in (64, 256) if GPU else (16, 64):
        _steps(networks, batch)
    _learner(networks, 8, 2048 if GPU else 256)


def made(config: ModelConfig, exact: bool) -> MiniMax:
    """The same weights in either mode; bf16 activations on a GPU."""
    with DEVICE:
        network = MiniMax(config, torch.bfloat16 if GPU else torch.float32, exact)
    generator = torch.Generator(DEVICE).manual_seed(0)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if "norm" not in name:
                parameter.normal_(std=0.02, generator=generator)
    return network


def _agreement(networks: dict[bool, MiniMax], responses: int, tokens: int) -> None:
    """Responses sampled with the weights cast as engines do, read by the learner in packed rows of four."""
    config = networks[True].config
    print(f"\n{responses} responses of {tokens} tokens at temperature 0.8, prompts of 64 to 190, groups of four\n")
    print("| mode | equal to the bit | largest difference | mean K3-KL |\n|---|---|---|---|")
    rng = np.random.default_rng(0)
    prompts = [rng.integers(0, config.vocab_size, 64 + 2 * i) for i in range(responses // 4)]
    for exact in MODES:
        engine = Engine(made(config, exact), responses, config.vocab_size, max_length=256 + tokens)
        for index, prompt in enumerate(prompts):
            engine.submit(Request(index, prompt, [stream_key(index, s) for s in range(4)], tokens, 0.8))
        found: list[Completion] = []
        while engine.has_work:
            found += engine.step()
        sampler, learner = [], []
        for start in range(0, len(found), 4):
            part = found[start : start + 4]
            rows = [np.concatenate([prompts[c.request_id], c.tokens_T]) for c in part]
            for completion, logprobs in zip(part, _learned(networks[exact], rows), strict=True):
                sampler.append(completion.logprobs_T)
                learner.append(logprobs[-len(completion.tokens_T) :])
        ours, theirs = np.concatenate(learner), np.concatenate(sampler)
        log_r = (ours - theirs).astype(np.float64)
        k3 = (np.exp(log_r) - 1 - log_r).mean()
        equal = f"{(ours == theirs).sum():,} of {len(ours):,}"
        print(f"| {_name(exact)} | {equal} | {np.abs(log_r).max():.1e} | {k3:.1e} |", flush=True)


@torch.no_grad()
def _learned(network: MiniMax, rows: list[np.ndarray]) -> list[np.ndarray]:
    tokens, borders = _packed(rows)
    logprobs = network.logprobs(tokens, borders, 0.8)[0].cpu().numpy()
    return np.split(logprobs, borders[1:-1].tolist())


def _packed(rows: list[np.ndarray]) -> tuple[Tensor, Tensor]:
    borders = np.cumsum([0, *map(len, rows)])
    return torch.from_numpy(np.concatenate(rows)).long().to(DEVICE), torch.from_numpy(borders).to(DEVICE)


def _steps(networks: dict[bool, MiniMax], batch: int) -> None:
    """Median decoding steps with all rows running."""
    config = networks[True].config
    prompt, new = (128, 256) if GPU else (32, 64)
    engines = {exact: Engine(made(config, exact), batch, config.vocab_size, max_length=prompt + new) for exact in MODES}
    seconds: dict[bool, list[float]] = {exact: [] for exact in MODES}
    for engine in engines.values():
        for index, row in enumerate(generation.prompts(batch, prompt, config.vocab_size)):
            engine.submit(Request(index, row, [stream_key(0, index)], new))
        generation.timed_steps(engine, 4)
    for _ in range(3):
        for exact, engine in engines.items():
            seconds[exact] += generation.timed_steps(engine, new // 6)
    times = {exact: median(found) for exact, found in seconds.items()}
    print(f"\nengine, batch {batch}: " + _compared(times, times[True] / times[False] - 1), flush=True)


def _learner(networks: dict[bool, MiniMax], sequences: int, length: int) -> None:
    """Forward over a packed row, without and with gradient, and forward with backward."""
    rng = np.random.default_rng(0)
    tokens, borders = _packed([rng.integers(0, networks[True].config.vocab_size, length) for _ in range(sequences)])
    parts: dict[str, Callable[[MiniMax], Any]] = {
        "forward without gradient": torch.no_grad()(lambda network: network.logprobs(tokens, borders)),
        "forward": lambda network: network.logprobs(tokens, borders),
        "forward and backward": lambda network: network.logprobs(tokens, borders)[0].sum().backward(),
    }
    for name, part in parts.items():
        pairs = [[_seconds(part, networks[exact]) for exact in MODES] for _ in range(12)][2:]
        times = {exact: median(pair[exact] for pair in pairs) for exact in MODES}
        cost = median(pair[True] / pair[False] - 1 for pair in pairs)
        print(f"\nlearner, {sequences} x {length} tokens, {name}: " + _compared(times, cost), flush=True)


def _seconds(part: Callable[[MiniMax], Any], network: MiniMax) -> float:
    network.zero_grad()
    _wait()
    started = time.perf_counter()
    part(network)
    _wait()
    return time.perf_counter() - started


def _wait() -> None:
    if GPU:
        torch.cuda.synchronize()


def _compared(times: dict[bool, float], cost: float) -> str:
    return ", ".join(f"{_name(exact)} {times[exact] * 1e3:.2f} ms" for exact in MODES) + f": {cost:+.0%}"


def _name(exact: bool) -> str:
    return "exact" if exact else "ordinary"


if __name__ == "__main__":
    main()
