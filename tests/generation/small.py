"""A small policy with opinions, requests for it, and runs of the engine."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from lightning_cispo.configs.schema import ModelConfig
from lightning_cispo.model.generation.engine import Engine
from lightning_cispo.model.generation.randomness import stream_key
from lightning_cispo.model.generation.requests import Completion, Request
from lightning_cispo.model.network import MiniMax

EOS = 5


def policy(**changes: Any) -> MiniMax:
    shape = dict(vocab_size=64, hidden_size=32, intermediate_size=32, num_hidden_layers=4, softmax_every=4)
    network = MiniMax(ModelConfig(**(shape | changes))).initialize(0)
    with torch.no_grad():
        network.lm_head.weight.mul_(20)
    return network


def tied(rows: int, vocabulary: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits [rows, V] whose likeliest three tokens are equal, and these tokens [rows, 3] in ascending order."""
    logits = torch.randn(rows, vocabulary, generator=generator)
    places = torch.stack([torch.randperm(vocabulary, generator=generator)[:3].sort().values for _ in range(rows)])
    return logits.scatter_(1, places, 25.0), places


def requests(count: int = 12, samples: int = 5, max_tokens: int = 20, seed: int = 0, **options: Any) -> list[Request]:
    rng = np.random.default_rng(0)
    prompts = [rng.integers(6, 64, 2 + i % 7) for i in range(count)]
    return [
        Request(i, prompt, [stream_key(seed, i, s) for s in range(samples)], max_tokens, **options)
        for i, prompt in enumerate(prompts)
    ]


def drain(engine: Engine) -> dict[tuple[int, int], Completion]:
    """Everything that comes out, by request and sample; each exactly once, and nothing is left behind."""
    found: dict[tuple[int, int], Completion] = {}
    while engine.has_work:
        for completion in engine.step():
            assert (completion.request_id, completion.sample) not in found
            found[completion.request_id, completion.sample] = completion
    assert_nothing_held(engine)
    return found


def assert_nothing_held(engine: Engine) -> None:
    assert engine.table.pool.available == engine.table.pool.total, "pages leaked"
    assert engine.running == 0 and not len(engine.queue)
    assert not +engine.table.features, "what no running sequence asks for is still counted"


def run(network: MiniMax, wanted: list[Request], slots: int, **options: Any) -> tuple[dict, Engine]:
    engine = Engine(network, slots, EOS, **options)
    for request in wanted:
        engine.submit(request)
    return drain(engine), engine


def tokens(found: dict[tuple[int, int], Completion]) -> dict[tuple[int, int], list[int]]:
    return {key: completion.tokens_T.tolist() for key, completion in found.items()}


def bits(found: dict[tuple[int, int], Completion]) -> dict[tuple[int, int], tuple[bytes, bytes]]:
    """Tokens and log-probabilities, for comparing to the bit."""
    return {key: (x.tokens_T.tobytes(), x.logprobs_T.tobytes()) for key, x in found.items()}
