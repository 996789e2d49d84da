"""Stop strings, found in the bytes of tokens as a search of the text would, wherever they begin and end in them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lightning_cispo.kernels.decoding.stops import match_stops
from lightning_cispo.model.generation.engine import Engine
from lightning_cispo.model.generation.requests import Interruption, Request
from lightning_cispo.model.generation.stop_strings import StopTable, automaton
from tests.generation.small import EOS, drain, policy, requests, run, tokens
from tests.generation.stops import SPELLINGS, check_matching, first_end
from tests.kernels.interpreted import interpreted

CPU = torch.device("cpu")
strings = st.lists(st.text(st.sampled_from("abé€"), min_size=1, max_size=5), min_size=1, max_size=4)


@pytest.fixture(scope="module")
def network():
    return policy()


@given(strings, st.binary(max_size=30).map(lambda noise: bytes(b"ab\xc3\xa9\xe2\x82\xac"[byte % 7] for byte in noise)))
def test_an_automaton_says_where_strings_end(stops, text):
    next_SB, state = automaton(stops), 0
    assert len(next_SB) <= 1 + sum(len(stop.encode()) for stop in stops)
    for end in range(1, len(text) + 1):
        entry = int(next_SB[state, text[end - 1]])
        assert (entry < 0) == any(text[:end].endswith(stop.encode()) for stop in stops)
        state = ~entry if entry < 0 else entry


def test_tokens_are_matched_on_the_host():
    check_matching(match_stops, "cpu")


@interpreted
def test_tokens_are_matched_in_the_interpreter():
    from lightning_cispo.kernels.decoding.stops_triton import match_triton

    check_matching(match_triton, "cpu")


def test_places_in_the_table_are_used_again():
    table, wanted = StopTable(SPELLINGS, 64, CPU), [tuple("ab" * (1 + i) for i in range(n)) for n in range(1, 5)]
    table.hold(wanted)
    full = len(table.matcher.next_SB)
    for turn in range(50):
        several = [(chr(97 + turn), "b" * 5), wanted[turn % 4], ()]
        table.hold(several)
        beginnings = [table.beginning(strings) for strings in several]
        assert beginnings[2] == 0 and len(set(beginnings)) == 3
        for strings, begin in zip(several[:2], beginnings[:2], strict=True):
            made = automaton(strings)
            there = table.matcher.next_SB[begin : begin + len(made)].numpy()
            assert (there == np.where(made < 0, made - begin, made + begin)).all()
    assert len(table.matcher.next_SB) == full and (table.matcher.next_SB[0] == 0).all()


@pytest.mark.parametrize("lag", [0, 1])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"min_tokens": 7},
        {"top_k": 9, "min_tokens": 18},
        {"observer": lambda _: None},
        {"interruption": Interruption(4, [12, 8], lambda _: False), "min_tokens": 18},
    ],
)
def test_responses_end_where_a_string_is_complete(network, options, lag):
    """Whatever else the request asks for, whatever shares its batch, preempted or not, with flags read late or not."""
    stops = [("abba",), ("é", "bbbbbb"), (), ("aab", "baé")]
    free, _ = run(network, requests(max_tokens=30, **options), slots=64)
    expected, ended = {}, 0
    for (number, sample), found in free.items():
        ids, own = found.tokens_T.tolist(), stops[number % 4]
        end = first_end(ids, own, options.get("min_tokens", 0))
        expected[number, sample] = (ids[:end], "stop" if end and ids[end - 1] != EOS else found.stop)
        ended += end is not None
    assert 10 < ended < len(free) - 10
    for kv_tokens in (None, 320):
        engine = Engine(network, 64, EOS, kv_tokens=kv_tokens, spellings=SPELLINGS)
        engine.lag = lag
        for request in requests(max_tokens=30, **options):
            strings = stops[request.id % 4]
            engine.submit(replace(request, stop_strings=strings))
        found = drain(engine)
        assert tokens(found) == {key: ids for key, (ids, _) in expected.items()}
        for key, (ids, stop) in expected.items():
            assert found[key].stop == stop, (key, ids)
        assert (engine.stats.preemptions > 0) == (kv_tokens is not None)


def test_strings_of_requests_that_left_are_forgotten(network):
    engine = Engine(network, 8, EOS, spellings=SPELLINGS)
    for number in range(60):
        engine.submit(Request(number, np.array([7]), [number], 9, stop_strings=("a" * (1 + number % 7), f"{number}")))
    drain(engine)
    assert len(engine.rows.stop_table.matcher.next_SB) < 8 * 12 * 2


@pytest.mark.parametrize(
    ("stops", "spelled", "message"),
    [
        (("",), True, "not empty"),
        (("a" * 600, "é" * 300), True, "longer than 1024 bytes"),
        (("a",), False, "without `spellings`"),
    ],
)
def test_strings_that_cant_be_had_are_refused(network, stops, spelled, message):
    engine = Engine(network, 2, EOS, spellings=SPELLINGS if spelled else None)
    with pytest.raises(ValueError, match=message):
        engine.submit(Request(0, np.array([7]), [0], 4, stop_strings=stops))
