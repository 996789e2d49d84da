"""The exact mode on the device: its kernels, and the learner against decoding in graphs."""

from __future__ import annotations

import pytest
import torch

from lightning_cispo.model.generation.exact_step import ExactStep
from lightning_cispo.model.network import MiniMax
from lightning_cispo.model.routing import Routing
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
    found, engine = run(sampler, mixed(), max_length=400, **options)
    assert isinstance(engine.decoder.fused, ExactStep) and engine.decoder.graphs
    for pack in (100, 3):
        assert_equal_to_the_learners(learner, found, mixed(), pack)


def test_gradients_are_as_good_as_the_ordinary_ones():
    """Against float32, by its choice of experts: rows of 1,000 tokens in four sequences, so that whole tiles and what
    is left take part."""
    config = shape("small", num_hidden_layers=4, softmax_every=4, vocab_size=512)
    rng = torch.Generator("cuda").manual_seed(1)
    tokens = torch.randint(0, 512, (1000,), device="cuda", generator=rng)
    weight = torch.randn(2, 1000, device="cuda", generator=rng)
    borders, found = torch.tensor([0, 1, 400, 464, 1000], device="cuda"), {}
    routing = Routing()
    for kind, dtype in (("float32", torch.float32), ("exact", torch.bfloat16), ("ordinary", torch.bfloat16)):
        with torch.device("cuda"):
            network = MiniMax(config, dtype, exact=kind == "exact")
        generator = torch.Generator("cuda").manual_seed(0)
        with torch.no_grad():
            for parameter in network.parameters():
                if parameter.dim() > 1:
                    parameter.normal_(std=0.02, generator=generator)
        logprobs, entropy, _ = network.logprobs(tokens, borders, 0.8, routing)
        if kind == "float32":
            routing = Routing(routing.made_TLK(torch.uint8))
        (torch.stack([logprobs, entropy]) * weight).sum().backward()
        found[kind] = {name: parameter.grad.double() for name, parameter in network.named_parameters()}
    errors = {
        kind: sum(float((found[kind][name] - truth).norm() / truth.norm()) for name, truth in found["float32"].items())
        for kind in ("exact", "ordinary")
    }
    print(f"\nrelative errors of the gradients, summed over parameters: {errors}")
    # Its residual stream is in 16 bits, as its layers are; the ordinary one is in float32.
    assert errors["exact"] <= 2 * errors["ordinary"]
