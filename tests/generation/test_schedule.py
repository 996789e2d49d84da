"""A response is a function of (weights, prompt, seed, sample), whatever happens around it."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_cispo.kernels.native.library import library
from lightning_cispo.model.generation.engine import Engine
from lightning_cispo.model.generation.pages import PagePool
from lightning_cispo.model.generation.randomness import stream_key
from lightning_cispo.model.generation.requests import Request
from tests.generation.small import EOS, assert_nothing_held, bits, drain, policy, requests, run, tokens


@pytest.fixture(scope="module")
def network():
    """Softmax layers below others, whose outputs weigh enough to be seen in the last bits of the logits."""
    made = policy(attn_type_list=[1, 0, 0, 0])
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            if "self_attn" in name and "norm" not in name:
                parameter.mul_(10)
    return made


@pytest.fixture(autouse=True)
def threads():
    held = torch.get_num_threads()
    yield
    torch.set_num_threads(held)


@pytest.fixture(scope="module")
def alone(network):
    """Every request by itself."""
    return {key: x for request in mixed() for key, x in run(network, [request], slots=4)[0].items()}


@pytest.fixture(scope="module")
def undisturbed(alone):
    return tokens(alone)


def mixed() -> list[Request]:
    """Short and long prompts, among them several chunks long, one a whole number of pages, one alone in its group."""
    rng = np.random.default_rng(1)
    lengths = [3, 70, 16, 200, 32, 1, 130, 15, 17, 64]
    return [
        Request(i, rng.integers(6, 64, n), [stream_key(i, s) for s in range(1 + i % 4)], 24)
        for i, n in enumerate(lengths)
    ]


@settings(max_examples=12)
@given(
    order=st.randoms(use_true_random=False),
    slots=st.integers(1, 20),
    kv_tokens=st.sampled_from([224, 300, 600, 5000]),
    prefill_tokens=st.sampled_from([1, 64, 100, 250, 5000]),
    threads=st.integers(1, 3),
)
def test_shuffled_split_preempted_and_chunked_gives_the_same_bits(
    network, alone, order, slots, kv_tokens, prefill_tokens, threads
):
    shuffled = mixed()
    order.shuffle(shuffled)
    torch.set_num_threads(threads)
    found, _ = run(network, shuffled, slots, kv_tokens=kv_tokens, prefill_tokens=prefill_tokens)
    assert tokens(found) == tokens(alone)
    if library() is not None:  # torch rounds otherwise in other company
        assert bits(found) == bits(alone)


def test_preemption_happens_and_changes_nothing(network):
    """Eight responses of 60 tokens where there is room for three."""
    wanted = requests(count=4, samples=2, max_tokens=60, min_tokens=60)
    found, engine = run(network, wanted, slots=16, kv_tokens=240)
    assert engine.stats.preemptions >= 4
    undisturbed, engine = run(network, wanted, slots=16)
    assert engine.stats.preemptions == 0
    assert bits(undisturbed) == bits(found)


def test_samples_split_over_engines_and_retried(network, undisturbed):
    """Each worker takes some samples of every group; what one had under way when it died is asked of another."""
    parts = {}
    for half in (0, 1):
        for request in mixed():
            keys = request.keys[half::2]
            if not keys:
                continue
            dying = Engine(network, 4, EOS)
            dying.submit(Request(0, request.prompt_T, keys, 24))
            for _ in range(5):
                dying.step()
            dying.clear()
            assert_nothing_held(dying)
            dying.submit(Request(0, request.prompt_T, keys, 24))
            for (_, sample), completion in drain(dying).items():
                parts[request.id, half + 2 * sample] = completion.tokens_T.tolist()
    assert parts == undisturbed


def test_requests_that_join_later_change_nothing(network, undisturbed):
    engine, found = Engine(network, 8, EOS, kv_tokens=500), {}
    late = mixed()
    random.Random(0).shuffle(late)
    while late or engine.has_work:
        if late:
            engine.submit(late.pop())
        for completion in engine.step():
            found[completion.request_id, completion.sample] = completion.tokens_T.tolist()
    assert found == undisturbed
    assert_nothing_held(engine)


def test_all_attention_and_none(network):
    """Networks without states, and without keys."""
    for kinds in ([1, 1], [0, 0]):
        other = policy(num_hidden_layers=2, attn_type_list=kinds)
        wide, _ = run(other, mixed(), slots=32)
        tight, _ = run(other, mixed(), slots=3, kv_tokens=224, prefill_tokens=64)
        assert tokens(wide) == tokens(tight)


def test_group_shares_pages_and_copies_on_write(network):
    """Eight samples of a prompt of 40 tokens: two whole pages once, and the third for each."""
    engine = Engine(network, 8, EOS)
    engine.submit(Request(0, np.arange(6, 46), list(range(8)), 8, min_tokens=8))
    engine.step()
    assert engine.table.pool.total - engine.table.pool.available == 2 + 8
    drain(engine)
    assert engine.stats.prefill_tokens == 40 and engine.stats.saved_prefill_tokens == 7 * 40


def test_a_long_prompt_does_not_hold_up_decoding(network):
    engine = Engine(network, 8, EOS, prefill_tokens=64)
    engine.submit(Request(0, np.array([9, 9]), [0], 30, min_tokens=30))
    engine.submit(Request(1, np.full(640, 7), [1], 2))
    counts = []
    while not engine.stats.started == 2:
        engine.step()
        counts.append(engine.stats.prefill_tokens)
        assert engine.rows.count[0] == len(counts) + 1, "a token a step"
    assert max(np.diff([0, *counts])) <= 64 and counts[-1] == 642
    drain(engine)


def test_a_free_slot_is_taken_at_once_where_that_is_wanted(network):
    for admit_slots, started in ((1, 16), (None, 15)):
        engine = Engine(network, 16, EOS, admit_slots=admit_slots)
        engine.submit(Request(0, np.array([7]), list(range(15)), 9, min_tokens=9))
        engine.step()
        engine.submit(Request(1, np.array([8]), [5], 3))
        engine.step()
        assert engine.stats.started == started
        drain(engine)


def test_cancelled_requests_leave_nothing(network, undisturbed):
    engine = Engine(network, 6, EOS, kv_tokens=300, prefill_tokens=64)
    for request in mixed():
        engine.submit(request)
    found = {}
    for step in range(400):
        if step < 30 and step % 3 == 0:
            engine.cancel(step // 3) if step // 3 != 4 else None
        found |= tokens({(c.request_id, c.sample): c for c in engine.step()})
    assert_nothing_held(engine)
    assert {key: found[key] for key in undisturbed if key[0] == 4} == {
        k: v for k, v in undisturbed.items() if k[0] == 4
    }


def test_what_was_reserved_is_said_and_kept(network):
    engine = Engine(network, 4, EOS, kv_tokens=320)
    config = network.config
    per_token = 2 * config.num_key_value_heads * config.head_dim * 4
    assert engine.reserved["kv_tokens"] == 320
    assert engine.reserved["kv_bytes"] == (320 + 16) * per_token  # and the page of idle rows
    assert engine.reserved["state_bytes"] == 4 * 3 * config.num_attention_heads * config.head_dim**2 * 4
    before = {id(x): x.data_ptr() for x in (*engine.cache.keys.values(), *engine.cache.states.values())}
    for request in requests():
        engine.submit(request)
    drain(engine)
    assert before == {id(x): x.data_ptr() for x in (*engine.cache.keys.values(), *engine.cache.states.values())}


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        (dict(prompt_T=np.array([], int)), "needs a prompt"),
        (dict(max_tokens=0), "needs a prompt"),
        (dict(prompt_T=np.arange(60), max_tokens=300), "exceed the 320"),
        (dict(keys=[]), "at least one sample"),
        (dict(top_p=0.0), "0 < top_p <= 1"),
        (dict(temperature=float("nan")), r"temperature of 0 \(greedy\) or at least"),
    ],
)
def test_impossible_requests_are_refused(network, bad, why):
    fields = dict(id=7, prompt_T=np.array([1]), keys=[0], max_tokens=1) | bad
    with pytest.raises(ValueError, match=f"request 7: .*{why}"):
        Engine(network, 2, EOS, kv_tokens=320).submit(Request(**fields))


@given(st.lists(st.integers(0, 6), max_size=60))
def test_pages_are_never_lost_nor_given_twice(steps):
    """Against a plain model: who holds what."""
    pool, held = PagePool(12), []
    for step in steps:
        if step < 4 and pool.available >= step:
            held.append(pool.take(step))
        elif step == 4 and held:
            held.append(list(held[0]))
            pool.share(held[0])
        elif held:
            pool.release(held.pop(0))
        holders = [page for pages in held for page in pages]
        assert pool.available == 12 - len(set(holders))
        assert all(pool.shared(page) == (holders.count(page) > 1) for page in holders)
        assert 0 not in holders
    with pytest.raises(RuntimeError, match="free"):
        pool.take(13)
