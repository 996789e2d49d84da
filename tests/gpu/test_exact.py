"""The exact mode on the device: its kernels, and the learner against decoding in graphs."""

from __future__ import annotations

import pytest
import torch

from model.network import MiniMax
from tests.benchmarks.generation import shape
from tests.generation.small import run
from tests.generation.test_exact import assert_equal_to_the_learners, mixed
from tests.kernels.test_exact_triton import CHECKS

if not torch.cuda.is_available():
    pytest.skip("needs a CUDA device", allow_module_level=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_kernels(check, dtype):
    check("cuda", dtype)


@pytest.mark.parametrize("options", [dict(slots=100), dict(slots=20, kv_tokens=1000, prefill_tokens=64)])
def test_the_learners_log_probabilities_are_the_samplers(options):
    """Four layers of the anchors' shape: groups, other batches, preemption, chunks; packed together and in threes."""
    with torch.device("cuda"):
        learner, sampler = (
            MiniMax(shape("small", num_hidden_layers=4, softmax_every=4, vocab_size=512), torch.bfloat16, exact=True)
            for _ in range(2)
        )
    generator = torch.Generator("cuda").manual_seed(0)
    with torch.no_grad():
        for parameter in learner.parameters():
            if parameter.dim() > 1:
                parameter.normal_(std=0.02, generator=generator)
        learner.lm_head.weight.mul_(6)
    sampler.load_state_dict(learner.state_dict())
    found, _ = run(sampler, mixed(), max_length=400, **options)
    for pack in (100, 3):
        assert_equal_to_the_learners(learner, found, mixed(), pack)
