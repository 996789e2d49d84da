"""Rows that ask for different things in one batch: each gets what it gets alone."""

from __future__ import annotations

import numpy as np
import pytest

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


def test_weights_of_another_shape_leave_the_network_as_it_was(network):
    engine = Engine(network, 2, EOS)
    names = dict(network.named_parameters())
    before = {name: parameter.detach().clone() for name, parameter in names.items()}
    first = next(iter(before))
    for wrong in ("nobody", "lm_head.weight"):
        given = [(first, before[first] + 1), (wrong, before[first][:1])]
        with pytest.raises(ValueError, match=f"{wrong} .*no parameter"):
            engine.load_weights(given, 1)
    assert engine.version == 0 and all((names[name] == kept).all() for name, kept in before.items())
