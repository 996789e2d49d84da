"""Rollout workers as Ray actors: same responses whoever gives them, also when one dies."""

from __future__ import annotations

import os
import signal
from dataclasses import replace

import pytest
import ray

from lightning_cispo.configs.schema import RewardsConfig, RolloutConfig, RunConfig
from lightning_cispo.model.network import MiniMax
from lightning_cispo.model.tokenizer import load_tokenizer
from lightning_cispo.rl.prompts import training_stream
from lightning_cispo.rl.rollouts import Rollouts
from tests.rl.small import DATA, DRAW, MODEL


@pytest.fixture(scope="module", autouse=True)
def cluster():
    ray.init(num_cpus=4, include_dashboard=False, object_store_memory=100 << 20, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def prompts():
    return training_stream(DATA, load_tokenizer("bytes"), 0).take(12)


@pytest.fixture
def rollouts():
    made = []

    def make(workers: int, max_restarts: int = 3) -> Rollouts:
        config = RunConfig(data=DATA, rollout=RolloutConfig(workers, slots=6, threads=1, max_restarts=max_restarts))
        config.rewards = RewardsConfig(format_weight=0.5)
        found = Rollouts(config, MODEL, "bytes", [{"num_cpus": 0}] * workers)
        made.append(found)
        network = MiniMax(MODEL).initialize(3)
        weights = {name: parameter.detach().numpy() * 3 for name, parameter in network.named_parameters()}
        found.publish([ray.put(weights)], version=5)
        return found

    yield make
    for one in made:
        one.close()


def tokens(groups):
    return [[t.tokens_T.tolist() for t in group.trajectories] for group in groups]


def test_groups_are_whole_judged_and_in_order(rollouts, prompts):
    seen = []
    found = rollouts(2)
    groups = found.collect(prompts, DRAW, seen.append)
    assert [group.prompt.id for group in groups] == [prompt.id for prompt in prompts]
    assert len(seen) == 12
    for trajectory in (t for group in groups for t in group.trajectories):
        assert set(trajectory.versions_T.tolist()) == {5}
        assert set(trajectory.verdict.parts) == {"correct", "format"} and trajectory.verdict.reward is not None
        assert trajectory.loss_mask_T.all() and len(trajectory.tokens_T) == len(trajectory.sampler_logprobs_T)
    metrics = found.metrics()
    assert metrics["rollout/prefill_saved_tokens"] == 3 * metrics["rollout/prefill_tokens"] > 0
    assert 0 < metrics["rollout/occupancy"] <= 1


def test_responses_are_judged_anew_in_their_order(rollouts, prompts):
    """Also when a worker dies over it: its share stays without a verdict, and the next call has it judged."""
    found = rollouts(2)
    trajectories = [(group.prompt.problem, t) for group in found.collect(prompts[:3], DRAW) for t in group.trajectories]
    right = [index % 3 == 0 for index in range(len(trajectories))]
    pairs = [
        (problem, replace(t, text=problem.answer if is_right else "none"))
        for (problem, t), is_right in zip(trajectories, right, strict=True)
    ]
    first = found.judge(pairs, DRAW.max_tokens)
    assert [verdict.correct for verdict in first] == right and None not in {verdict.reward for verdict in first}
    os.kill(found.wait_until_ready()[1], signal.SIGKILL)
    again = found.judge(pairs, DRAW.max_tokens)
    assert again[::2] == first[::2] and all(verdict.reward is None for verdict in again[1::2])
    assert found.restarts == 1 and found.judge(pairs, DRAW.max_tokens) == first


def test_a_dead_worker_is_replaced_and_nothing_changes(rollouts, prompts):
    undisturbed = tokens(rollouts(1).collect(prompts, DRAW))
    found = rollouts(2)
    victim = found.wait_until_ready()[1]
    killed = []

    def kill_once(_):
        if not killed:
            killed.append(os.kill(victim, signal.SIGKILL))

    assert tokens(found.collect(prompts, DRAW, kill_once)) == undisturbed
    assert found.metrics()["rollout/restarts"] == 1


def test_workers_that_keep_dying_end_the_run(rollouts, prompts):
    found = rollouts(1, max_restarts=0)
    (victim,) = found.wait_until_ready()
    os.kill(victim, signal.SIGKILL)
    with pytest.raises(RuntimeError, match="rollout.max_restarts"):
        found.collect(prompts, DRAW)


def test_workers_take_prompts_as_slots_free_up_and_nothing_changes(rollouts, prompts):
    """Six slots and four samples: two prompts to begin with, the others one by one."""
    few = rollouts(1)
    assert tokens(few.collect(prompts, DRAW)) == tokens(rollouts(2).collect(prompts, DRAW))
    metrics = few.metrics()
    assert metrics["rollout/queue_s"] < metrics["rollout/tokens_per_s"]


def test_weights_arrive_while_a_batch_is_under_way(rollouts, prompts):
    found, published = rollouts(1), []
    weights = {n: p.detach().numpy() * 3 for n, p in MiniMax(MODEL).initialize(4).named_parameters()}

    def publish_once(_):
        if not published:
            published.append(found.publish([ray.put({name: array}) for name, array in weights.items()], version=6))

    groups = found.collect(prompts, DRAW, publish_once)
    versions = [t.versions_T.tolist() for group in groups for t in group.trajectories]
    assert all(v == sorted(v) and set(v) <= {5, 6} for v in versions)
    assert {5, 6} == {version for v in versions for version in v}


def test_a_death_that_publishing_finds_counts_once(rollouts, prompts):
    undisturbed = tokens(rollouts(1).collect(prompts, DRAW))
    found, killed = rollouts(1, max_restarts=1), []
    (victim,) = found.wait_until_ready()

    def kill_and_publish_once(_):
        if not killed:
            killed.append(os.kill(victim, signal.SIGKILL))
            found.publish(found._weights[1:], version=5)

    assert tokens(found.collect(prompts, DRAW, kill_and_publish_once)) == undisturbed
    assert found.restarts == 1
