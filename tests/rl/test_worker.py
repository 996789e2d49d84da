"""A rollout worker without Ray: what it asks for and when, what it reports, what it writes into responses."""

from __future__ import annotations

import itertools
import threading
from concurrent.futures import Future
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from lightning_cispo.configs.schema import RolloutConfig, RunConfig
from lightning_cispo.model.network import MiniMax
from lightning_cispo.model.tokenizer import decode, encode, load_tokenizer
from lightning_cispo.rewards.verdict import Status, Verdict
from lightning_cispo.rl.prompts import training_stream
from lightning_cispo.rl.worker import RolloutWorker, Room
from tests.rl.small import DATA, DRAW, MODEL


@pytest.fixture(scope="module")
def prompts():
    return training_stream(DATA, load_tokenizer("bytes"), 0).take(12)


@pytest.fixture
def config():
    return RunConfig(data=DATA, rollout=RolloutConfig(1, slots=6, threads=1))


@pytest.fixture
def worker(config):
    threads = torch.get_num_threads()
    made = RolloutWorker(config, MODEL, "bytes")
    yield made
    made.close()
    torch.set_num_threads(threads)


def answered(worker, prompts, draw=DRAW, before=lambda: None):
    """Everything that `generate` gives where its questions are answered at once, after `before`."""
    rest = list(prompts[2:])
    for found in worker.generate(prompts[:2], draw, more=True):
        yield found
        if isinstance(found, Room):
            before()
            more, rest = rest[: found.prompts], rest[found.prompts :]
            worker.add(more) if more else worker.no_more()


@pytest.mark.parametrize("recompute", [False, True])
def test_weights_in_flight_recompute_states_where_the_configuration_says_so(worker, config, monkeypatch, recompute):
    seen = []
    monkeypatch.setattr(worker.engine, "load_weights", lambda named, *how: seen.append((dict(named), *how)))
    config.rollout.recompute = recompute
    worker.load_weights(7, {"a": np.zeros(2, np.float32)}, {"b": np.ones(1, np.float32)})
    [(named, *how)] = seen
    assert how == [7, recompute] and named.keys() == {"a", "b"}


def test_what_reads_a_text_holds_up_no_step(worker, prompts, monkeypatch):
    """Decoding and the grader wait until the engine has sampled everything; both in another thread than its."""
    sampled, threads, step = threading.Event(), set(), worker.engine.step

    def stepping():
        completions = step()
        if not worker.engine.has_work:
            sampled.set()
        return completions

    def decoding(*given):
        threads.add(threading.current_thread())
        assert sampled.wait(60), "the engine waits for a text"
        return decode(*given)

    monkeypatch.setattr(worker.engine, "step", stepping)
    monkeypatch.setattr("lightning_cispo.rl.referee.decode", decoding)
    submit = worker.grader.submit
    worker.grader.submit = lambda *given: (threads.add(threading.current_thread()), submit(*given))[1]
    groups = list(worker.generate(prompts[:3], DRAW))
    assert len(groups) == 3 and len(threads) == 1 and threading.current_thread() not in threads


def test_what_fails_before_a_verdict_ends_generating(worker, prompts, monkeypatch):
    def failing(*_):
        raise RuntimeError("a broken tokenizer")

    monkeypatch.setattr("lightning_cispo.rl.referee.decode", failing)
    with pytest.raises(RuntimeError, match="a broken tokenizer"):
        list(worker.generate(prompts[:2], DRAW))


@pytest.mark.parametrize(("workers", "processes", "made"), [(1, 0, 6), (4, 0, 1), (2, 0, 3), (2, 5, 5)])
def test_verifier_processes_share_the_cores(config, monkeypatch, workers, processes, made):
    monkeypatch.setattr("lightning_cispo.rl.worker.cores", lambda: 6)
    config.rollout.workers, config.rewards.processes = workers, processes
    worker = RolloutWorker(config, MODEL, "bytes")
    worker.close()
    assert len(worker.grader._pool._workers) == made


@pytest.mark.parametrize("max_tokens", [1, 24])
def test_prompts_are_taken_while_every_verdict_is_still_to_come(worker, prompts, max_tokens):
    """The first verdict comes after the last response."""
    promises: list[Future[Verdict]] = []

    def submit(problem, response):
        promises.append(Future())
        if len(promises) == len(prompts) * DRAW.samples:
            for promise in promises:
                promise.set_result(Verdict(1.0, True, Status.passed))
        return promises[-1]

    worker.grader.submit = submit
    found = list(answered(worker, prompts, replace(DRAW, max_tokens=max_tokens)))
    groups = [group for group in found if not isinstance(group, Room)]
    assert {group.prompt.id for group in groups} == {prompt.id for prompt in prompts}
    assert found[-len(groups) :] == groups


def test_a_prompt_is_at_hand_before_the_slots_are_free(worker, prompts):
    """Questions come while the engine is at work, and for no more than its slots and one prompt."""
    running, rooms = [], []
    for found in answered(worker, prompts, before=lambda: running.append(worker.engine.running)):
        rooms += [found.prompts] if isinstance(found, Room) else []
    assert min(running[:-1]) > 0 and set(rooms[:-1]) <= {1, 2, 3}
    assert worker.engine.stats.slot_steps / worker.engine.stats.steps > 0.8 * worker.engine.slots


def test_occupancy_counts_the_time_that_the_engine_waits(worker, prompts, monkeypatch):
    now = [0.0]

    def clock():
        now[0] += 1.0
        return now[0]

    def wait():
        now[0] += 10_000.0

    monkeypatch.setattr("lightning_cispo.rl.worker.time", SimpleNamespace(monotonic=clock))
    list(answered(worker, prompts))
    at_once = worker.statistics()["occupancy"]
    list(answered(worker, prompts, before=wait))
    assert 0.3 < at_once <= 0.5  # a second of every step, and one between two
    assert worker.statistics()["occupancy"] < at_once / 10


def test_statistics_cover_every_round_since_they_were_asked_for(worker, prompts, monkeypatch):
    monkeypatch.setattr("lightning_cispo.rl.worker.time", SimpleNamespace(monotonic=itertools.count().__next__))
    rounds = []
    for part in (prompts[:2], prompts[2:6]):
        list(worker.generate(part, DRAW))
        rounds.append(worker.statistics())
    for part in (prompts[:2], prompts[2:6]):
        list(worker.generate(part, DRAW))
    both = worker.statistics()
    for name in ("prefill_tokens", "saved_prefill_tokens", "graded"):
        assert both[name] == sum(each[name] for each in rounds) > 0, name
    for name in ("occupancy", "tokens_per_s"):
        assert min(each[name] for each in rounds) <= both[name] <= max(each[name] for each in rounds), name
    assert worker.statistics()["prefill_tokens"] == worker.statistics()["occupancy"] == 0


def test_forced_answers_are_left_out_of_the_loss(config, prompts, monkeypatch):
    monkeypatch.setattr("lightning_cispo.rl.worker.thinking_open", lambda text: "</think>" not in text)
    config.sampling.thinking_tokens = 3
    worker = RolloutWorker(config, MODEL, "bytes")
    try:
        trajectories = [t for group in worker.generate(prompts[:2], DRAW) for t in group.trajectories]
        closing = list(b"\n") + encode(worker.tokenizer, "</think>") + list(b"\n\n")
        cut = [t for t in trajectories if not t.loss_mask_T.all()]
        assert cut and all(t.tokens_T[~t.loss_mask_T].tolist() == closing for t in cut)
        assert all((~t.loss_mask_T).nonzero()[0].tolist() == [3, 4, 5, 6] for t in cut)
    finally:
        worker.close()


def test_stop_strings_of_the_configuration_end_responses(config, prompts):
    """What is sampled is what would have been, up to the token that completes a string; all of it is trained on."""
    found, weights = [], MiniMax(MODEL).initialize(0).state_dict()
    for stop in ([], list("ABCDEFGHIJ")):
        config.sampling.stop = stop
        worker = RolloutWorker(config, MODEL, "bytes")
        worker.load_weights(0, {name: weight.numpy() for name, weight in weights.items()})
        groups = sorted(worker.generate(prompts, DRAW), key=lambda group: group.prompt.id)
        found.append([trajectory for group in groups for trajectory in group.trajectories])
        worker.close()
    for free, stopped in zip(*found, strict=True):
        ends = [i + 1 for i, token in enumerate(free.tokens_T.tolist()) if chr(token) in stop]
        assert stopped.tokens_T.tolist() == free.tokens_T[: ends[0] if ends else None].tolist()
        assert stopped.stop == ("stop" if ends else free.stop) and stopped.loss_mask_T.all()
    assert {trajectory.stop for trajectory in found[1]} > {"stop", "length"}


def test_thinking_that_never_began_is_not_ended(config, worker, prompts):
    config.sampling.thinking_tokens = 3
    trajectories = [t for group in worker.generate(prompts[:2], DRAW) for t in group.trajectories]
    assert all(t.loss_mask_T.all() and "</think>\n\n" not in t.text for t in trajectories)
    closed = worker._interruption().closed
    open_texts = ["<think>ab", "\n <think>ab", "a<think>b", "<think></think><think>ab", "<think>a</think>b\n<think>c"]
    closed_texts = ["", "ab", "<think>a</think>b", "a</think>", "<think>é</think>"]
    for text in open_texts + closed_texts:
        ids = encode(worker.tokenizer, text)
        assert closed(np.array(ids)) is (text in closed_texts), text
        assert closed(np.array([100_000, *ids, 100_000])) is (text in closed_texts), "a token that no tokenizer knows"
