"""Routing replay from the rollout worker to the learner: the sampler's experts, also under other weights."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import ray
import torch

from lightning_cispo.configs.schema import (
    AlgorithmConfig,
    DataConfig,
    LearnerConfig,
    ModelConfig,
    OptimizerConfig,
    PromptStyle,
    RolloutConfig,
    RunConfig,
    TaskConfig,
)
from lightning_cispo.model import checkpoint
from lightning_cispo.model.network import MiniMax
from lightning_cispo.model.routing import Routing
from lightning_cispo.model.tokenizer import load_tokenizer
from lightning_cispo.rl.advantages import Sample, to_samples
from lightning_cispo.rl.prompts import training_stream
from lightning_cispo.rl.worker import Draw, RolloutWorker
from lightning_cispo.train.learner_group import LearnerGroup

MODEL = ModelConfig(hidden_size=32, intermediate_size=32, num_hidden_layers=4, softmax_every=4, num_local_experts=4)
DATA = DataConfig(
    tasks=[TaskConfig("chain_sum", 1.0, {"min_digits": 1, "max_digits": 1})], prompt_style=PromptStyle.compact
)
CONFIG = RunConfig(
    data=DATA,
    algorithm=AlgorithmConfig(routing_replay=True),
    learner=LearnerConfig(1, 1, micro_batch_tokens=100, threads=1),
    rollout=RolloutConfig(1, slots=6, threads=1),
)


@pytest.fixture(scope="module", autouse=True)
def cluster():
    ray.init(num_cpus=2, include_dashboard=False, object_store_memory=100 << 20, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def sampler() -> MiniMax:
    return opinionated()


def opinionated() -> MiniMax:
    network = MiniMax(MODEL).initialize(3).requires_grad_(False)
    for name, parameter in network.named_parameters():
        parameter.mul_(1 if "norm" in name else 4)
    return network


@pytest.fixture(scope="module")
def samples(sampler) -> list[Sample]:
    """What a worker's responses come to for the learner."""
    threads = torch.get_num_threads()
    worker = RolloutWorker(CONFIG, MODEL, "bytes")
    try:
        worker.load_weights(1, {name: parameter.numpy() for name, parameter in sampler.named_parameters()})
        prompts = training_stream(DATA, load_tokenizer("bytes"), 0).take(3)
        groups = list(worker.generate(prompts, Draw(samples=4, temperature=1.0, max_tokens=24, seed=7)))
    finally:
        worker.close()
        torch.set_num_threads(threads)
    made = to_samples(groups, CONFIG.algorithm, 24)
    assert len(made) == 12 and all(len(s.routing_TLK) == len(s.tokens_T) for s in made)
    return made


@pytest.fixture
def learners(sampler, tmp_path):
    made = LearnerGroup(CONFIG, MODEL, [{"num_cpus": 1}])
    made.connect()
    tokenizer = load_tokenizer("bytes")

    def start(network: MiniMax) -> LearnerGroup:
        checkpoint.save(tmp_path / "model", MODEL, network.state_dict().items(), tokenizer)
        made.start(str(Path(tmp_path) / "model"), OptimizerConfig())
        return made

    yield start
    made.close()


def logprobs(network: MiniMax, sample: Sample, replay: bool) -> np.ndarray:
    tokens = torch.from_numpy(sample.tokens_T).long()
    routing = Routing(torch.from_numpy(sample.routing_TLK)) if replay else None
    row = network.logprobs(tokens, torch.tensor([0, len(tokens)]), routing=routing)[0].numpy()
    return np.where(sample.loss_mask_T, row, 0)


def test_the_learner_keeps_to_the_samplers_experts(sampler, samples, learners):
    group = learners(sampler)
    for sample, anchored in zip(samples, group.anchor(samples), strict=True):
        np.testing.assert_allclose(anchored.anchor_T, sample.sampler_T, atol=1e-5)
    report = group.update(samples, 0.0, CONFIG.algorithm)
    assert report.sums.metrics()["policy/routing_changed"] == 0

    moved, generator = opinionated(), torch.Generator().manual_seed(0)
    for layer in moved.model.layers:
        layer.mlp.gate.weight += 0.05 * torch.randn(layer.mlp.gate.weight.shape, generator=generator)
    group = learners(moved)
    free = [replace(sample, routing_TLK=None) for sample in samples]
    apart = 0.0
    for sample, with_replay, without in zip(samples, group.anchor(samples), group.anchor(free), strict=True):
        np.testing.assert_allclose(with_replay.anchor_T, logprobs(moved, sample, True), atol=1e-5)
        np.testing.assert_allclose(without.anchor_T, logprobs(moved, sample, False), atol=1e-5)
        apart = max(apart, np.abs(with_replay.anchor_T - without.anchor_T).max())
    assert apart > 1e-3, "other experts, other probabilities"

    report = group.update(samples, 0.0, CONFIG.algorithm)
    assert 0.05 < report.sums.metrics()["policy/routing_changed"] < 1
    # The balancing loss goes by the experts used: the sampler's, but for the last token of each sequence.
    kept = np.concatenate([sample.routing_TLK[:-1] for sample in samples])
    tokens = sum(len(sample.tokens_T) for sample in samples)
    used = np.array(group.expert_load_E) * tokens * MODEL.num_hidden_layers
    own = used - np.bincount(kept.flatten(), minlength=MODEL.num_local_experts)
    assert own.min() > -1e-6 and own.sum() == pytest.approx(len(samples) * MODEL.num_hidden_layers * 2)
    report = group.update(free, 0.0, CONFIG.algorithm)
    assert "policy/routing_changed" not in report.sums.metrics()
