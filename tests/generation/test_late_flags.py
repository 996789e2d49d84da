"""Flags read a step after they were written, as on CUDA, where the next step is under way by then."""

from __future__ import annotations

import numpy as np

from lightning_cispo.model.generation.engine import Engine
from lightning_cispo.model.generation.requests import Interruption, Request
from tests.generation.small import EOS, drain, policy, requests, tokens


def late(slots: int, **options) -> Engine:
    engine = Engine(policy(), slots, EOS, **options)
    engine.lag = 1
    return engine


def test_responses_are_those_of_flags_read_at_once():
    found = []
    for lag in (0, 1):
        engine = late(7)
        engine.lag = lag
        for request in requests():
            engine.submit(request)
        found.append(drain(engine))
    assert tokens(found[0]) == tokens(found[1])
    assert {key: c.stop for key, c in found[0].items()} == {key: c.stop for key, c in found[1].items()}


def test_what_ended_before_new_weights_came_is_still_handed_out():
    engine = late(4)
    engine.submit(Request(0, np.array([7, 8]), [1, 2], 3, min_tokens=3))
    for _ in range(2):
        assert engine.step() == []
    engine.load_weights(((n, p.detach().clone()) for n, p in engine.network.named_parameters()), version=1)
    assert engine.has_work and len(drain(engine)) == 2


def test_a_forgotten_response_is_not_handed_out_later():
    engine = late(4)
    engine.submit(Request(0, np.array([7, 8]), [1], 3, min_tokens=3))
    engine.step()
    engine.step()
    engine.load_weights(((n, p.detach().clone()) for n, p in engine.network.named_parameters()), version=1)
    engine.clear()
    assert not engine.has_work and engine.step() == []


def test_an_end_just_before_the_closing_is_no_interruption():
    """Its end is known only after the closing was to be written."""
    stops = []
    for lag in (0, 1):
        engine = late(64)
        engine.lag = lag
        for request in requests(40, interruption=Interruption(4, [20, 21], lambda _: False)):
            engine.submit(request)
        found = drain(engine)
        stops.append({key: c.stop for key, c in found.items()})
        ended = [c for c in found.values() if len(c.tokens_T) == 4 and c.tokens_T[-1] == EOS]
        assert ended and all(c.stop == "eos" and c.chosen_T.all() for c in ended)
    assert stops[0] == stops[1]
