"""The network against the oracle: logits, router logits, final states, and the gradient of every parameter."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from lightning_cispo.configs.schema import LIGHTNING
from tests.model.oracle import FIXTURES, from_disk, needs_oracle, network_of, rows_of, worst

pytestmark = needs_oracle
PRECISIONS = [(torch.float64, 1e-9), (torch.float32, 1e-5)]


@pytest.mark.parametrize("name", FIXTURES)
@pytest.mark.parametrize("dtype, tolerance", PRECISIONS)
def test_forward(name, dtype, tolerance):
    network = network_of(name, dtype)
    fixture, tokens, borders = rows_of(name)
    with torch.no_grad():
        output = network(tokens, borders, return_context=True)
        logits = network.lm_head(output.hidden_TX)
    assert logits.dtype == dtype
    assert worst(logits, fixture["logits_fp64"].flatten(0, 1)) < tolerance
    assert worst(torch.stack(output.router_logits), fixture["router_logits_fp64"]) < tolerance
    lightning = [i for i, kind in enumerate(network.config.layer_types) if kind == LIGHTNING]
    assert lightning and set(output.context.states) == set(lightning)
    for layer in lightning:
        theirs = fixture[f"final_state_fp64.{layer}"]
        assert worst(output.context.states[layer][-len(theirs) :], theirs) < tolerance


@pytest.mark.parametrize("name", FIXTURES)
@pytest.mark.parametrize("dtype, tolerance", PRECISIONS)
@pytest.mark.parametrize("recompute", [False, True])
def test_every_gradient(name, dtype, tolerance, recompute):
    network = network_of(name, dtype)
    network.checkpoint_activations = recompute
    fixture, tokens, borders = rows_of(name)
    labels = fixture["labels"]
    logits = network.lm_head(network(tokens, borders).hidden_TX).view(*fixture["input_ids"].shape, -1)
    loss = F.cross_entropy(logits[:, :-1].flatten(0, 1), labels.flatten())
    assert worst(loss[None], fixture["loss_fp64"]) < tolerance
    loss.backward()
    theirs = from_disk(network.config, fixture, "grad_fp64.")
    ours = dict(network.named_parameters())
    assert ours.keys() == theirs.keys()
    for parameter in ours:
        assert worst(ours[parameter].grad, theirs[parameter]) < tolerance, parameter


@pytest.mark.parametrize("name", FIXTURES)
def test_logprobs_are_the_oracles(name):
    network = network_of(name, torch.float64)
    fixture, tokens, borders = rows_of(name)
    with torch.no_grad():
        logprobs, entropy, _ = network.logprobs(tokens, borders)
    wanted = fixture["logits_fp64"].flatten(0, 1).log_softmax(-1)
    predicted = torch.ones(len(tokens), dtype=torch.bool).index_fill(0, borders[:-1], False)
    before = predicted.nonzero().squeeze(1) - 1
    assert worst(logprobs[predicted], wanted[before, tokens[predicted]]) < 1e-9
    assert worst(entropy[predicted], -(wanted.exp() * wanted).sum(-1)[before]) < 1e-9
    assert not logprobs[borders[:-1]].any() and not entropy[borders[:-1]].any()


def test_packed_equals_separate():
    network = network_of("packed", torch.float64)
    _, tokens, borders = rows_of("packed")
    assert (borders.diff() == 1).any()  # a sequence of one token is among them
    with torch.no_grad():
        packed = network(tokens, borders).hidden_TX
        for start, stop in zip(borders[:-1], borders[1:]):
            alone = network(tokens[start:stop], torch.tensor([0, stop - start])).hidden_TX
            assert worst(packed[start:stop], alone) < 1e-12


def test_padding_is_not_needed_between_sequences_of_no_tokens():
    network = network_of("packed", torch.float64)
    _, tokens, borders = rows_of("packed")
    with torch.no_grad():
        plain = network(tokens, borders).hidden_TX
        gaps = network(tokens, torch.cat([borders[:1], borders, borders[-1:]])).hidden_TX
    assert worst(gaps, plain) < 1e-12


@pytest.mark.parametrize("name", FIXTURES)
@pytest.mark.parametrize("cut", [1, 13, 29])
def test_continuing_from_left_context_equals_one_pass(name, cut):
    network = network_of(name, torch.float64)
    _, tokens, borders = rows_of(name)
    sequences = [tokens[a:b] for a, b in zip(borders[:-1], borders[1:]) if b - a > cut]
    halves = [[s[:cut] for s in sequences], [s[cut:] for s in sequences]]
    rows = [(torch.cat(half), F.pad(torch.tensor([len(s) for s in half]).cumsum(0), (1, 0))) for half in halves]
    with torch.no_grad():
        context = network(*rows[0], return_context=True).context
        continued = network(*rows[1], past=context).hidden_TX
        whole = torch.cat([network(s, torch.tensor([0, len(s)])).hidden_TX[cut:] for s in sequences])
    assert worst(continued, whole) < 1e-12


def test_bf16_activations_keep_router_state_and_logits_in_float32():
    network = network_of("partial_rope", torch.float32)
    network.compute_dtype = torch.bfloat16
    fixture, tokens, borders = rows_of("partial_rope")
    with torch.no_grad():
        output = network(tokens, borders, return_context=True)
        logits = network.lm_head(output.hidden_TX)
    assert output.hidden_TX.dtype == torch.bfloat16
    assert {x.dtype for x in (logits, *output.router_logits, *output.context.states.values())} == {torch.float32}
    assert not torch.equal(logits, logits.bfloat16().float())  # not rounded on the way either
    mean = (logits - fixture["logits_fp64"].flatten(0, 1)).abs().mean() / fixture["logits_fp64"].abs().mean()
    assert mean < 0.05
