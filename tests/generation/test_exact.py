"""The exact mode: the learner's log-probabilities are the sampler's to the bit, and its gradients the ordinary ones."""

from __future__ import annotations

import importlib.util
import random
from dataclasses import replace
from unittest import mock

import numpy as np
import pytest
import torch

from lightning_cispo.configs.schema import ModelConfig
from lightning_cispo.kernels.native import library as native_library
from lightning_cispo.model.generation.engine import Engine
from lightning_cispo.model.generation.randomness import stream_key
from lightning_cispo.model.generation.requests import Completion, Request
from lightning_cispo.model.network import MiniMax
from lightning_cispo.model.routing import Routing
from tests.generation.small import EOS, drain, requests, run

SHAPES = [
    dict(),
    # No width is a whole number of vectors, and every part that a network may have takes part.
    dict(hidden_size=33, intermediate_size=21, num_attention_heads=3, num_key_value_heads=1, head_dim=11)
    | dict(rotary_dim=6, shared_intermediate_size=13, num_experts_per_tok=3, postnorm=False, vocab_size=61),
]


@pytest.fixture(params=["native", "torch"])
def arithmetic(request, monkeypatch):
    """With the compiled kernels, and where there are none."""
    if request.param == "torch":
        monkeypatch.setattr(native_library, "library", lambda: None)
    elif native_library.library() is None:
        pytest.skip("no compiler")


def policy(exact: bool = True, **changes) -> MiniMax:
    shape = dict(vocab_size=64, hidden_size=32, intermediate_size=32, num_hidden_layers=4, softmax_every=4)
    network = MiniMax(ModelConfig(**(shape | changes)), exact=exact).initialize(0)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if "norm" not in name:
                parameter.mul_(4)
    return network


def mixed(**options) -> list[Request]:
    rng = np.random.default_rng(1)
    lengths = [3, 70, 16, 200, 1, 130, 17, 64]
    return [
        Request(i, rng.integers(6, 61, n), [stream_key(i, s) for s in range(1 + i % 4)], 24, 0.7, **options)
        for i, n in enumerate(lengths)
    ]


def learned(network: MiniMax, sequences: list[np.ndarray]) -> list[np.ndarray]:
    """The learner's log-probabilities of sequences packed into one row."""
    device = network.lm_head.weight.device
    tokens = torch.from_numpy(np.concatenate(sequences)).long().to(device)
    borders = torch.tensor([0, *np.cumsum([len(s) for s in sequences])], device=device)
    logprobs_T = network.logprobs(tokens, borders, 0.7)[0].detach().cpu().numpy()
    return np.split(logprobs_T, borders[1:-1].tolist())


def assert_equal_to_the_learners(network: MiniMax, found: dict, wanted: list[Request], pack: int) -> None:
    prompts = {request.id: request.prompt_T for request in wanted}
    keys = list(found)
    random.Random(pack).shuffle(keys)
    wholes = [np.concatenate([prompts[key[0]], found[key].tokens_T]) for key in keys]
    for start in range(0, len(keys), pack):
        part = slice(start, start + pack)
        for key, own in zip(keys[part], learned(network, wholes[part]), strict=True):
            completion: Completion = found[key]
            np.testing.assert_array_equal(completion.logprobs_T, own[len(prompts[key[0]]) :])


@pytest.mark.parametrize("shape", SHAPES)
def test_the_learners_log_probabilities_are_the_samplers(shape, arithmetic):
    """Groups, chunks of prompts, preemption, other batches; one row for all sequences, a few, or one."""
    network = policy(**shape)
    found, _ = run(network, mixed(), slots=64)
    assert_equal_to_the_learners(network, found, mixed(), pack=100)
    assert_equal_to_the_learners(network, found, mixed(), pack=3)
    tight, _ = run(network, mixed()[::-1], slots=7, kv_tokens=240, prefill_tokens=64)
    for key, completion in found.items():
        np.testing.assert_array_equal(completion.tokens_T, tight[key].tokens_T)
        np.testing.assert_array_equal(completion.logprobs_T, tight[key].logprobs_T)


def test_preempted_and_resumed(arithmetic):
    network, wanted = policy(), [replace(request, temperature=0.7) for request in requests(6, 4, 60)]
    found, engine = run(network, wanted, slots=24, kv_tokens=240)
    assert engine.stats.preemptions
    assert_equal_to_the_learners(network, found, wanted, pack=10)


def test_recomputed_states_are_those_of_a_fresh_start(arithmetic):
    """New weights in flight with states recomputed: from there on as if these had been the weights always."""
    network, moved = policy(), policy()
    with torch.no_grad():
        for parameter in moved.parameters():
            parameter.mul_(1.1)
    engine = Engine(network, 8, EOS)
    wanted = Request(0, np.arange(6, 46), list(range(6)), 20, 0.7, min_tokens=0)
    engine.submit(wanted)
    for _ in range(5):
        engine.step()
    engine.load_weights(((name, p.detach().clone()) for name, p in moved.named_parameters()), 1, recompute=True)
    compared = 0
    for completion in drain(engine).values():
        own = learned(moved, [np.concatenate([wanted.prompt_T, completion.tokens_T])])[0][40:]
        new = completion.versions_T == 1
        np.testing.assert_array_equal(completion.logprobs_T[new], own[new])
        compared += int(new.sum())
    assert compared


@pytest.mark.parametrize("shape", SHAPES)
def test_gradients_are_the_ordinary_ones(shape, arithmetic):
    rng = np.random.default_rng(0)
    tokens = torch.from_numpy(rng.integers(0, 61, 150))
    borders, weight = torch.tensor([0, 70, 71, 150]), torch.from_numpy(rng.normal(size=(2, 150))).float()
    found = []
    for exact in (True, False):
        network = policy(exact, **shape)
        logprobs, entropy, output = network.logprobs(tokens, borders, 0.7)
        loss = (torch.stack([logprobs, entropy]) * weight).sum() + torch.cat(output.router_logits).square().sum()
        loss.backward()
        found.append([loss.detach(), *(parameter.grad for parameter in network.parameters())])
    for ours, ordinary in zip(*found, strict=True):
        assert (ours - ordinary).norm() <= 2e-5 * ordinary.norm()


def test_replay_and_exactness_go_together(arithmetic):
    """A record replayed by an exact learner with the same weights changes nothing."""
    network = policy()
    found, _ = run(network, mixed(), slots=9, record_routing=True)
    prompts = {request.id: request.prompt_T for request in mixed()}
    for (index, _), completion in found.items():
        whole = torch.from_numpy(np.concatenate([prompts[index], completion.tokens_T])).long()
        last = np.full_like(completion.routing_TLK[:1], 255)
        routing = Routing(torch.from_numpy(np.concatenate([completion.routing_TLK, last])))
        logprobs = network.logprobs(whole, torch.tensor([0, len(whole)]), 0.7, routing)[0].detach().numpy()
        np.testing.assert_array_equal(completion.logprobs_T, logprobs[len(prompts[index]) :])


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")
def test_the_steps_router_has_the_learners_sums_up_to_32_experts():
    """A wider one is multiplied in another order by the learner: then the layers' own decoding runs."""
    from lightning_cispo.model.generation.exact_step import ExactStep

    for experts in (32, 33):
        with torch.device("meta"):
            network = MiniMax(ModelConfig(num_local_experts=experts), torch.bfloat16, exact=True)
        with mock.patch("lightning_cispo.model.generation.exact_step.by_row_experts", return_value=True):
            assert ExactStep.serves(network) == (experts == 32)
