"""Rows that ask for different things in one batch: each gets what it gets alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lightning_cispo.model.generation.engine import Engine
from lightning_cispo.model.generation.requests import Interruption, Request
from tests.generation.small import EOS, policy, run


@pytest.fixture(scope="module")
def network():
    return policy()


@pytest.mark.parametrize(
    "other",
    [
        *({"top_p": 0.9}, {"top_k": 3}, {"min_tokens": 9}, {"temperature": 0}, {"stop_ids": (20, 30)}),
        *({"observer": lambda _: None}, {"observer": lambda _: None, "top_logprobs": 2}),
    ],
)
def test_a_neighbour_changes_no_bit(network, other):
    plain = Request(0, np.array([7, 8, 9]), list(range(40)), 20)
    alone, _ = run(network, [plain], slots=64)
    beside, _ = run(network, [plain, Request(1, np.array([11, 12]), [1, 2], 20, **other)], slots=64)
    for key, completion in alone.items():
        assert np.array_equal(completion.tokens_T, beside[key].tokens_T)
        assert np.array_equal(completion.logprobs_T, beside[key].logprobs_T)


@pytest.mark.parametrize("closing", [None, Interruption(3, [40], lambda _: False)])
def test_repetition_is_judged_among_all_tokens(network, closing):
    """One token to choose from has all of what is left, and says nothing of what the policy was sure of."""
    given = dict(top_k=1, min_tokens=12, interruption=closing)
    found, _ = run(network, [Request(0, np.array([7, 8]), [1, 2], 12, **given)], slots=4, repetition_tokens=4)
    assert {c.stop for c in found.values()} == {"length"}
    assert all((c.logprobs_T == 0).all() for c in found.values())


@pytest.mark.parametrize("prompt", [[64], [-1, 7]])
def test_ids_outside_of_the_vocabulary_are_refused(network, prompt):
    with pytest.raises(ValueError, match="outside of the vocabulary of 64"):
        Engine(network, 2, EOS).submit(Request(0, np.array(prompt), [0], 4))


def _other(before: dict[str, torch.Tensor], change: str) -> list[tuple[str, torch.Tensor]]:
    """A version of the weights that has one fault."""
    given = [(name, weight + 1) for name, weight in before.items()]
    name, weight = given[-1]
    if change in ("nan", "inf", "-inf"):
        weight.view(-1)[-1] = float(change)
    faults = {
        "unknown": [*given, ("nobody", weight)],
        "shape": [*given[:-1], (name, weight[:1])],
        "one": given[:1],
        "missing": given[:-1],
        "none": [],
        "twice": [*given, given[0]],
    }
    return faults.get(change, given)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("unknown", "nobody .*no parameter"),
        ("shape", "{last} .*no parameter of this name and shape"),
        ("one", "incomplete: {rest} of {all} parameters are missing, the first is {second}"),
        ("missing", "incomplete: 1 of {all} parameters are missing, the first is {last}"),
        ("none", "incomplete: {all} of {all}"),
        ("twice", "{first}: given twice"),
        ("nan", "{last}: holds NaN"),
        ("inf", "{last}: holds NaN, infinity"),
        ("-inf", "{last}: holds NaN, infinity"),
    ],
)
def test_a_faulty_version_of_the_weights_leaves_the_network_as_it_was(network, change, says):
    engine = Engine(network, 2, EOS)
    parameters = dict(network.named_parameters())
    before = {name: parameter.detach().clone() for name, parameter in parameters.items()}
    (first, second), last = list(before)[:2], list(before)[-1]
    says = says.format(all=len(before), rest=len(before) - 1, first=first, second=second, last=last)
    with pytest.raises(ValueError, match=f"version 1: {says}"):
        engine.load_weights(_other(before, change), 1)
    assert engine.version == 0 and all((parameters[name] == kept).all() for name, kept in before.items())
    engine.load_weights(before.items(), 2)
    assert engine.version == 2
