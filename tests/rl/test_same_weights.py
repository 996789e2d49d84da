"""Two steps of RL train the same weights to the bit, however many workers, slots and threads sample for them."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch

from lightning_cispo.configs.schema import DataConfig, PromptStyle, RewardsConfig, RolloutConfig, RunConfig, TaskConfig
from lightning_cispo.kernels.native.library import library
from lightning_cispo.model.network import MiniMax
from lightning_cispo.model.tokenizer import load_tokenizer
from lightning_cispo.rl.advantages import to_samples
from lightning_cispo.rl.objectives.cispo import cispo
from lightning_cispo.rl.packing import MicroBatch, pack
from lightning_cispo.rl.prompts import training_stream
from lightning_cispo.rl.types import Group, Prompt
from lightning_cispo.rl.worker import Draw, RolloutWorker
from tests.rl import small

# Prompts of 4 to some 80 bytes; letters are paid, so that a policy of random weights has something to learn.
DATA = DataConfig(
    tasks=[TaskConfig("chain_sum", 1.0, {"max_digits": 9, "max_terms": 9})], prompt_style=PromptStyle.compact
)
REWARDS = RewardsConfig(correct_weight=0.0, language_weight=1.0)
# Weights so large that attention is seen in the last bits of every logit.
MODEL = replace(small.MODEL, attn_type_list=[1, 0, 1, 0], initializer_range=0.2)


@pytest.fixture(autouse=True)
def threads():
    held = torch.get_num_threads()
    yield
    torch.set_num_threads(held)


def sampled(workers: list[RolloutWorker], prompts: list[Prompt], step: int) -> list[Group]:
    """A step's groups in the order of the prompts, which the workers share out."""
    draw = Draw(samples=4, temperature=1.0, max_tokens=16, seed=step)
    shares = [prompts[i :: len(workers)] for i in range(len(workers))]
    groups = itertools.chain(*(w.generate(share, draw) for w, share in zip(workers, shares, strict=True)))
    found = {group.prompt.id: group for group in groups}
    return [found[prompt.id] for prompt in prompts]


def update(network: MiniMax, optimizer: torch.optim.Optimizer, batches: list[MicroBatch], config: RunConfig) -> None:
    optimizer.zero_grad()
    for batch in batches:
        tokens, borders = torch.from_numpy(batch.tokens_T), torch.from_numpy(batch.cu_seqlens)
        logprobs, _, _ = network.logprobs(tokens, borders)
        given = (torch.from_numpy(x) for x in (batch.anchor_T, batch.sampler_T, batch.advantages_T))
        (cispo(logprobs, *given, config.algorithm).loss_T * torch.from_numpy(batch.scales_T)).sum().backward()
    optimizer.step()


def trained(workers: int, slots: int, threads: int) -> tuple[list[bytes], dict[str, np.ndarray]]:
    """Every response with its log-probabilities, and the weights after two steps."""
    options = RolloutConfig(workers, slots=slots, threads=threads, prefill_tokens=512 if workers > 1 else 100)
    config = RunConfig(data=DATA, rollout=options, rewards=REWARDS)
    stream = training_stream(DATA, load_tokenizer("bytes"), 0)
    network, responses = MiniMax(MODEL).initialize(0), []
    optimizer = torch.optim.AdamW(network.parameters(), lr=0.01)
    hosts = [RolloutWorker(config, MODEL, "bytes") for _ in range(workers)]
    try:
        for step in range(2):
            weights = {name: parameter.detach().numpy() for name, parameter in network.named_parameters()}
            for host in hosts:
                host.load_weights(step, weights)
            groups = sampled(hosts, stream.take(10), step)
            responses += [
                t.tokens_T.tobytes() + t.sampler_logprobs_T.tobytes() for group in groups for t in group.trajectories
            ]
            torch.set_num_threads(1)
            [batches] = pack(to_samples(groups, config.algorithm, 16), 1, 1024)
            update(network, optimizer, batches, config)
    finally:
        for host in hosts:
            host.close()
    return responses, {name: parameter.detach().numpy() for name, parameter in network.named_parameters()}


def test_two_workers_of_32_slots_and_one_of_5():
    if library() is None:
        pytest.skip("no C compiler: torch rounds otherwise in other company")
    (many, weights), (few, others) = trained(2, 32, 1), trained(1, 5, 2)
    assert many == few
    assert all(np.array_equal(weights[name], others[name]) for name in weights)
    untrained = dict(MiniMax(MODEL).initialize(0).named_parameters())
    assert not all(np.array_equal(untrained[name].detach().numpy(), weights[name]) for name in weights)
