"""The learner under DeepSpeed: the same step however it is cut, sharded or resumed."""

from __future__ import annotations

import numpy as np
import pytest
import ray
import torch

from lightning_cispo.configs.schema import AlgorithmConfig, LearnerConfig, ModelConfig, OptimizerConfig, RunConfig
from lightning_cispo.model.network import MiniMax
from lightning_cispo.rl.objectives.cispo import cispo
from lightning_cispo.train import learner_group
from lightning_cispo.train.learner import Learner
from lightning_cispo.train.learner_group import LearnerGroup
from tests.rl.builders import samples

MODEL = ModelConfig(
    vocab_size=64, hidden_size=32, intermediate_size=32, num_hidden_layers=4, softmax_every=4, num_local_experts=4
)
LENGTHS = [9, 30, 4, 17, 12, 25, 6]
# With eps far below the gradients AdamW's first step is lr * sign(gradient): it would show differences of sign alone.
OPTIMIZER = OptimizerConfig(lr=0.1, eps=0.1, grad_clip=0.5)


class Ranks(Learner):
    """Of several groups one after another: a process that has imported torch and DeepSpeed is worth keeping."""

    def become(self, config: RunConfig) -> None:
        self.config = config


@pytest.fixture(scope="module")
def groups():
    """Groups by their size, connected."""
    ray.init(num_cpus=4, include_dashboard=False, object_store_memory=100 << 20, log_to_driver=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(learner_group, "Learner", Ranks)
        yield {}
    ray.shutdown()


@pytest.fixture
def group(groups):
    def make(
        world_size: int, zero_stage: int, micro_batch_tokens: int = 10_000, recompute=False, offload=False
    ) -> LearnerGroup:
        learner = LearnerConfig(
            world_size,
            zero_stage,
            offload,
            micro_batch_tokens=micro_batch_tokens,
            activation_checkpointing=recompute,
            threads=1,
        )
        config = RunConfig(learner=learner)
        if world_size not in groups:
            groups[world_size] = LearnerGroup(config, MODEL, [{"num_cpus": 1}] * world_size)
            groups[world_size].connect()
        learners = groups[world_size]
        learners.config = config
        ray.get([rank.become.remote(config) for rank in learners.ranks])
        learners.start(None, OPTIMIZER)
        return learners

    return make


def plain_step() -> tuple[dict[str, np.ndarray], float]:
    """One step without DeepSpeed, ranks or micro-batches: a sequence at a time."""
    network = MiniMax(MODEL).initialize(0)
    for sample in samples(LENGTHS):
        tokens = torch.from_numpy(sample.tokens_T.astype(np.int64))
        logprobs, _, _ = network.logprobs(tokens, torch.tensor([0, len(tokens)]))
        anchor, mask = torch.from_numpy(sample.anchor_T), torch.from_numpy(sample.loss_mask_T)
        token = cispo(logprobs, anchor, anchor, torch.full_like(logprobs, sample.advantage), AlgorithmConfig())
        (token.loss_T * mask * sample.scale).sum().backward()
    norm = torch.nn.utils.clip_grad_norm_(network.parameters(), OPTIMIZER.grad_clip)
    torch.optim.AdamW(
        network.parameters(), lr=OPTIMIZER.lr, betas=(0.9, 0.95), eps=OPTIMIZER.eps, weight_decay=0.0
    ).step()
    return {name: parameter.detach().numpy() for name, parameter in network.named_parameters()}, float(norm)


def exported(learners: LearnerGroup) -> dict[str, np.ndarray]:
    return {name: array for part in ray.get(learners.export()) for name, array in part.items()}


@pytest.mark.parametrize(
    ("world_size", "zero_stage", "micro_batch_tokens", "recompute"),
    [
        (1, 0, 10_000, False),
        (1, 1, 30, True),
        (2, 0, 30, False),
        (2, 1, 10_000, False),
        (2, 2, 30, True),
        (2, 3, 30, False),
        (2, 3, 30, True),
    ],
)
def test_the_cut_does_not_change_the_step(group, world_size, zero_stage, micro_batch_tokens, recompute):
    expected, norm = plain_step()
    learners = group(world_size, zero_stage, micro_batch_tokens, recompute)
    report = learners.update(samples(LENGTHS), OPTIMIZER.lr, AlgorithmConfig())
    weights = exported(learners)
    assert report.grad_norm == pytest.approx(norm, rel=1e-4)
    assert norm > OPTIMIZER.grad_clip, "clipping takes part"
    assert report.sums.tokens == sum(LENGTHS) - 2 * len(LENGTHS)
    assert weights.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(weights[name], value, atol=2e-6, err_msg=name)


@pytest.mark.parametrize("zero_stage", [1, 3])
def test_optimizer_state_in_host_memory_changes_nothing(group, zero_stage):
    expected, _ = plain_step()
    learners = group(2, zero_stage, offload=True)
    learners.update(samples(LENGTHS), OPTIMIZER.lr, AlgorithmConfig())
    for name, value in exported(learners).items():
        np.testing.assert_allclose(value, expected[name], atol=2e-6, err_msg=name)


def test_more_ranks_than_sequences(group):
    learners = group(2, 2)
    before = exported(learners)
    report = learners.update(samples([9]), OPTIMIZER.lr, AlgorithmConfig())
    after = exported(learners)
    assert report.sums.tokens == 7 and np.isfinite(report.grad_norm)
    assert any((before[name] != after[name]).any() for name in before)


@pytest.mark.parametrize("zero_stage", [0, 1, 2, 3])
def test_restored_learners_go_on_to_the_bit_from_weights_and_moments_written_once(group, tmp_path, zero_stage):
    learners = group(2, zero_stage)
    for seed in range(2):
        learners.update(samples(LENGTHS, seed=seed), OPTIMIZER.lr, AlgorithmConfig())
    learners.save(str(tmp_path), "bytes")
    load = learners.expert_load_E
    learners.update(samples(LENGTHS, seed=2), OPTIMIZER.lr, AlgorithmConfig())
    expected = exported(learners)
    learners.start(str(tmp_path / "model"), OPTIMIZER)
    learners.restore(str(tmp_path), load)
    learners.update(samples(LENGTHS, seed=2), OPTIMIZER.lr, AlgorithmConfig())
    for name, value in exported(learners).items():
        assert np.array_equal(value, expected[name]), name
    parameters = sum(value.size for value in expected.values())
    on_disk = sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file())
    assert 12 * parameters < on_disk < 12.5 * parameters + 100_000, "4 bytes of weight and 8 of moments a parameter"


def test_moments_of_another_zero_stage_are_refused(group, tmp_path):
    learners = group(2, 1)
    learners.update(samples(LENGTHS), OPTIMIZER.lr, AlgorithmConfig())
    learners.save(str(tmp_path), "bytes")
    with pytest.raises(RuntimeError, match="rank-0000[01]-of-00002: was saved with learner.zero_stage=1, not 3"):
        group(2, 3).restore(str(tmp_path), None)


def test_learner_anchor_makes_the_first_ratio_one(group):
    learners = group(2, 1, 30)
    anchored = learners.anchor(samples(LENGTHS))
    report = learners.update(anchored, 0.0, AlgorithmConfig())
    metrics = report.sums.metrics()
    assert metrics["policy/ratio_max"] == pytest.approx(1, abs=1e-5)
    assert metrics["policy/ratio_min"] == pytest.approx(1, abs=1e-5)
    assert metrics["policy/k3_kl"] > 0.01, "the sampler's own log-probabilities were something else"
