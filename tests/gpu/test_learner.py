"""The learner's micro-batches on the device."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from lightning_cispo.configs.schema import AlgorithmConfig
from lightning_cispo.rl.advantages import Sample
from lightning_cispo.rl.packing import pack
from lightning_cispo.rl.statistics import UpdateSums
from lightning_cispo.train.learner import Learner, Policy
from lightning_cispo.train.step import backward
from tests.benchmarks.generation import network, shape

if not torch.cuda.is_available():
    pytest.skip("needs a CUDA device", allow_module_level=True)


@pytest.mark.parametrize("replayed", [False, True])
def test_a_micro_batch_waits_for_nothing(replayed):
    """Loss, statistics, balancing, gradient: the host goes on to the next while the device computes."""
    model = shape("small", num_hidden_layers=2, softmax_every=2, vocab_size=512, router_aux_loss_coef=0.01)
    config = SimpleNamespace(
        learner=SimpleNamespace(world_size=1, threads=1), sampling=SimpleNamespace(temperature=0.8)
    )
    learner = Learner(config, model, 0)  # type: ignore[arg-type]
    learner.engine = Policy(network(model, torch.device("cuda")))
    batches = pack([_sample(model, length, replayed) for length in (300, 500, 40)], 1, 600)[0]
    load_E = np.full(model.num_local_experts, 1 / 8)

    engine = SimpleNamespace(set_gradient_accumulation_boundary=bool, backward=torch.Tensor.backward)

    def run() -> list[torch.Tensor]:
        found = []
        for batch in batches:
            loss, sums, chosen_E = learner._loss(batch, AlgorithmConfig(), load_E, 840)
            backward(engine, loss, 2, last=False)
            found += [sums, chosen_E]
        return found

    run()
    torch.cuda.synchronize()
    try:
        torch.cuda.set_sync_debug_mode("error")
        found = run()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    sums, choices = UpdateSums.of(found[::2]), 840 * model.num_hidden_layers * model.num_experts_per_tok
    assert len(batches) == 2 and sums.tokens == 840 - 30 and sums.aux_loss > 0
    assert sums.routing_choices == (choices if replayed else 0)
    assert sum(int(chosen_E.sum()) for chosen_E in found[1::2]) == choices


def _sample(model, length: int, replayed: bool) -> Sample:
    rng = np.random.default_rng(length)
    mask = np.arange(length) >= 10
    logprobs = np.where(mask, -6.0, 0.0).astype(np.float32)
    routing = np.argsort(rng.random((length, model.num_hidden_layers, model.num_local_experts)))
    kept = routing[:, :, : model.num_experts_per_tok].astype(np.uint8) if replayed else None
    tokens = rng.integers(0, 512, length).astype(np.int32)
    return Sample(tokens, mask, logprobs, logprobs, 1.0, 1 / 810, kept)
