"""Steps that must not be taken: nothing to learn from, or numbers that are not finite; alike at every ZeRO stage."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import ray
import torch
from torch import Tensor

from lightning_cispo.configs.schema import AlgorithmConfig
from lightning_cispo.model.intact import NonFiniteWeights
from lightning_cispo.rl.advantages import Sample
from lightning_cispo.rl.packing import MicroBatch
from lightning_cispo.train import learner_group
from lightning_cispo.train.learner_group import LearnerGroup, Outcome
from tests.rl.builders import samples
from tests.train.test_learner import LENGTHS, OPTIMIZER, Ranks, exported, group

__all__ = ["group"]

VICTIM = 3  # index of the sample that spoils its micro-batch
STAGES = [(0, ""), (1, ""), (2, ""), (3, ""), (1, "offload"), (3, "offload"), (0, "recompute"), (3, "recompute")]


class _BrokenGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx, loss: Tensor) -> Tensor:
        return loss.clone()

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:
        return grad * float("inf")


class Sabotaged(Ranks):
    fault = ""

    def sabotage(self, fault: str) -> None:
        self.fault = fault

    def _loss(self, batch: MicroBatch, *how, **options):
        loss, *rest = super()._loss(batch, *how, **options)
        if VICTIM in batch.samples and self.fault == "loss":
            loss = loss + float("inf")  # its gradient is as before
        elif VICTIM in batch.samples and self.fault == "gradient":
            loss = _BrokenGradient.apply(loss)
        return loss, *rest


@pytest.fixture(scope="module")
def groups():
    ray.init(num_cpus=4, include_dashboard=False, object_store_memory=100 << 20, log_to_driver=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(learner_group, "Learner", Sabotaged)
        yield {}
    ray.shutdown()


def sabotage(learners: LearnerGroup, fault: str) -> None:
    ray.get([rank.sabotage.remote(fault) for rank in learners.ranks])


def learn(learners: LearnerGroup, made: list[Sample]):
    return learners.update(made, OPTIMIZER.lr, AlgorithmConfig())


def assert_equal(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)


@pytest.mark.parametrize(("zero_stage", "option"), STAGES)
def test_a_step_that_is_not_finite_leaves_weights_and_optimizer_as_they_were(group, zero_stage, option):
    options = {option: True} if option else {}
    learners = group(1, zero_stage, 30, **options)
    learn(learners, samples(LENGTHS))
    learn(learners, samples(LENGTHS, seed=1))
    expected = exported(learners)

    learners = group(1, zero_stage, 30, **options)
    learn(learners, samples(LENGTHS))
    before, load = exported(learners), learners.expert_load_E
    for fault in ("loss", "gradient"):
        sabotage(learners, fault)
        report = learn(learners, samples(LENGTHS, seed=2))
        assert report.outcome is Outcome.skipped and learners.expert_load_E == load
        assert [VICTIM in batch.samples for batch in report.offenders] == [True]
        assert_equal(exported(learners), before)
    sabotage(learners, "")
    assert learn(learners, samples(LENGTHS, seed=1)).outcome is Outcome.applied
    assert_equal(exported(learners), expected)


@pytest.mark.parametrize("zero_stage", [0, 2])
@pytest.mark.parametrize("fault", ["loss", "gradient"])
def test_one_rank_s_fault_stops_the_step_of_all(group, zero_stage, fault):
    learners = group(2, zero_stage, 30)
    before = exported(learners)
    sabotage(learners, fault)
    report = learn(learners, samples(LENGTHS))
    sabotage(learners, "")
    assert report.outcome is Outcome.skipped
    assert [VICTIM in batch.samples for batch in report.offenders] == [True]
    assert_equal(exported(learners), before)


@pytest.mark.parametrize("zero_stage", [0, 1, 2, 3])
def test_a_step_without_a_counted_token_is_none(group, zero_stage):
    learners = group(1, zero_stage)
    uncounted = [replace(sample, loss_mask_T=np.zeros_like(sample.loss_mask_T)) for sample in samples(LENGTHS)]
    before = exported(learners)
    for nothing in ([], uncounted):  # there is no expert load yet, so that the balancing loss counts nothing either
        assert learn(learners, nothing).outcome is Outcome.empty
        assert learners.expert_load_E is None
    assert_equal(exported(learners), before)
    learn(learners, samples(LENGTHS))
    once, load = exported(learners), learners.expert_load_E
    assert learn(learners, []).outcome is Outcome.empty and learners.expert_load_E == load
    assert learners.anchor([]) == []
    assert_equal(exported(learners), once)  # momentum alone would have moved them
    assert learn(learners, uncounted).outcome is Outcome.applied, "the balancing loss counts every token"


@pytest.mark.parametrize(("world_size", "zero_stage"), [(1, 0), (2, 3)])
def test_weights_that_are_not_finite_are_neither_handed_on_nor_saved(group, tmp_path, world_size, zero_stage):
    learners = group(world_size, zero_stage)
    learners.save(str(tmp_path / "good"), "bytes")
    learners.update(samples(LENGTHS), 1e300, AlgorithmConfig())
    with pytest.raises(NonFiniteWeights, match="holds NaN or infinity"):
        learners.export()
    with pytest.raises(NonFiniteWeights):
        learners.save(str(tmp_path / "bad"), "bytes")
    assert (tmp_path / "good/model/config.json").exists() and not (tmp_path / "bad/model").exists()
