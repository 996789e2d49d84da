"""Activation checkpointing changes what is kept, not what is computed."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch

from lightning_cispo.configs.schema import ModelConfig
from lightning_cispo.model.network import MiniMax
from lightning_cispo.model.recompute import recomputed

BORDERS = torch.tensor([0, 17, 18, 50])


def gradients(network: MiniMax, checkpointed: bool, backwards: int = 1) -> list[torch.Tensor]:
    network.checkpoint_activations = checkpointed
    network.zero_grad()
    torch.manual_seed(3)
    tokens = torch.randint(61, (50,))
    logprobs, entropy, _ = network.logprobs(tokens, BORDERS)
    for _ in range(backwards):
        (logprobs.sum() + entropy.sum()).backward(retain_graph=backwards > 1)
    return [logprobs.detach(), *(parameter.grad for parameter in network.parameters())]


@pytest.mark.parametrize("jitter", [0.0, 0.3])
@pytest.mark.parametrize("backwards", [1, 2])
def test_gradients_have_the_same_bits(jitter, backwards):
    """With the router's noise too: it is drawn again as it was."""
    sizes = dict(vocab_size=61, hidden_size=32, intermediate_size=24, num_hidden_layers=4, head_dim=16, softmax_every=2)
    config = ModelConfig(**sizes, num_attention_heads=2, num_key_value_heads=1, router_jitter_noise=jitter)
    network = MiniMax(config).initialize(seed=1).train()
    wanted = gradients(network, False, backwards)
    for ours, theirs in zip(gradients(network, True, backwards), wanted, strict=True):
        assert torch.equal(ours, theirs)


def test_where_the_noise_was_drawn_again_the_generator_goes_on_as_if_not():
    x = torch.ones(5, requires_grad=True)
    torch.manual_seed(0)
    y = recomputed(lambda x: (x * torch.rand(5)).square(), x, random=True)
    after = torch.get_rng_state()
    y.sum().backward()
    assert torch.equal(torch.get_rng_state(), after)


def test_what_was_computed_again_is_freed_with_the_graph():
    x, seen = torch.ones(5, requires_grad=True), []

    def layer(x):
        y = x.exp()  # which keeps its result
        seen.append(weakref.ref(y.untyped_storage()))
        return y.sin()

    recomputed(layer, x).sum().backward()
    gc.collect()
    assert len(seen) == 2 and not any(ref() for ref in seen)
    assert torch.equal(x.grad, torch.ones(5).exp().cos() * torch.ones(5).exp())


def test_nothing_is_computed_beyond_what_was_kept():
    x, calls = torch.ones(5, requires_grad=True), []

    def layer(x):
        y = x * x
        calls.append("kept")
        y = y + 1
        calls.append("after")
        return y

    recomputed(layer, x).sum().backward()
    assert calls == ["kept", "after"]


def test_a_layer_that_does_something_else_the_second_time_is_reported():
    x, calls = torch.ones(5, requires_grad=True), []

    def layer(x):
        calls.append(x)
        return x.exp().sin() if len(calls) == 1 else x.exp()

    with pytest.raises(RuntimeError, match="a layer kept 2 tensors for its gradient, then 1"):
        recomputed(layer, x).sum().backward()
