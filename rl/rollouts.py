"""The rollout workers as Ray actors: work handed out, groups collected as they finish, a dead worker replaced."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import RayActorError, RayTaskError

from lightning_cispo.configs.schema import ModelConfig, RunConfig
from lightning_cispo.rewards.verdict import Problem, Response, Status, Verdict
from lightning_cispo.rl.types import Group, Prompt, Trajectory
from lightning_cispo.rl.worker import Draw, RolloutWorker, Room

_UNHEARD = Verdict(None, False, Status.infra_error, {}, "the worker died that was to judge it")
_CHECK_S = 0.2


@dataclass
class _Job:
    """What a worker has been given of a batch and not delivered yet."""

    index: int
    missing: dict[int, Prompt]
    actor: Any = None  # that its stream began on: a dead one may have been replaced since


class Rollouts:
    """`workers` rollout workers behind one `collect`.

    A response is a function of (weights, seed, prompt, sample), so what a dead worker had not delivered is asked of its
    replacement and comes out the same.
    """

    def __init__(self, config: RunConfig, model: ModelConfig, tokenizer_name: str, placement: list[dict[str, Any]]):
        self.config, self.restarts = config, 0
        self._arguments = (config, model, tokenizer_name)
        self._placement = placement
        self.workers = [self._spawn(index) for index in range(config.rollout.workers)]
        self._weights: tuple[Any, ...] | None = None

    def _spawn(self, index: int) -> Any:
        actor: Any = ray.remote(RolloutWorker)
        # Beside `generate`: prompts to add, weights to load, and one to spare for questions.
        return actor.options(max_concurrency=4, **self._placement[index]).remote(*self._arguments)

    def wait_until_ready(self) -> list[int]:
        """Process ids of the workers, once they are ready. Raises what a constructor raised."""
        return ray.get([worker.ready.remote() for worker in self.workers])

    def publish(self, parts: Sequence[Any], version: int) -> None:
        """Hand a version of the weights (object references to {name: array}) to every worker.

        Also while a batch is collected (from `on_group`): its responses go on with them from their next token.
        """
        self._weights = (version, *parts)
        pending = [(i, worker, worker.load_weights.remote(*self._weights)) for i, worker in enumerate(self.workers)]
        for index, worker, reference in pending:
            try:
                ray.get(reference)
            except RayActorError as error:
                self._replace(index, worker, error)

    def collect(
        self,
        prompts: list[Prompt],
        draw: Draw,
        on_group: Callable[[Group], None] | None = None,
        check: Callable[[], None] | None = None,
    ) -> list[Group]:
        """All groups of a batch, in the order of its prompts. What `check` raises, called often, abandons the batch."""
        order = {prompt.id: position for position, prompt in enumerate(prompts)}
        groups = []
        for group in self._stream(prompts, draw, check):
            groups.append(group)
            if on_group:
                on_group(group)
        return sorted(groups, key=lambda group: order[group.prompt.id])

    def _stream(self, prompts: list[Prompt], draw: Draw, check: Callable[[], None] | None) -> Iterator[Group]:
        """Every worker begins with what fills its slots; the rest goes to whoever has room."""
        share = min(-(-len(prompts) // len(self.workers)), -(-self.config.rollout.slots // draw.samples))
        given, rest = prompts[: share * len(self.workers)], deque(prompts[share * len(self.workers) :])
        shares = [given[index :: len(self.workers)] for index in range(len(self.workers))]
        jobs = [_Job(index, {p.id: p for p in share}) for index, share in enumerate(shares) if share]
        streams: dict[Any, _Job] = {self._start(job, draw, bool(rest)): job for job in jobs}
        while streams:
            if check:
                check()
            ready, _ = ray.wait(list(streams), num_returns=1, timeout=_CHECK_S if check else None)
            if not ready:
                continue
            stream: Any = ready[0]
            job = streams[stream]
            try:
                found = ray.get(next(stream))
                if isinstance(found, Room):
                    self._answer(job, found, rest)
                else:
                    del job.missing[found.prompt.id]
                    yield found
            except StopIteration:
                del streams[stream]
            except RayActorError as error:
                del streams[stream]
                self._replace(job.index, job.actor, error)
                if job.missing or rest:
                    streams[self._start(job, draw, bool(rest))] = job

    def _answer(self, job: _Job, room: Room, rest: deque[Prompt]) -> None:
        """Prompts for a worker that has room, but not the others' share of the last ones; or that there are none."""
        count = min(room.prompts, -(-len(rest) // len(self.workers)))
        more = [rest.popleft() for _ in range(count)]
        job.missing.update({prompt.id: prompt for prompt in more})
        if more:
            job.actor.add.remote(more)
        else:
            job.actor.no_more.remote()

    def _start(self, job: _Job, draw: Draw, more: bool) -> Any:
        job.actor = self.workers[job.index]
        return job.actor.generate.options(num_returns="streaming").remote(list(job.missing.values()), draw, more)

    def _replace(self, index: int, dead: Any, error: RayActorError) -> None:
        """A new worker with the current weights in a dead one's place, unless there is one already."""
        if self.workers[index] is not dead:
            return
        if self.restarts >= self.config.rollout.max_restarts:
            raise RuntimeError(f"rollout worker {index} died and rollout.max_restarts is used up") from error
        self.restarts += 1
        self.workers[index] = self._spawn(index)
        if self._weights:
            ray.get(self.workers[index].load_weights.remote(*self._weights))

    def judge(self, pairs: Sequence[tuple[Problem, Trajectory]], max_tokens: int) -> list[Verdict]:
        """Verdicts on responses that were judged before, in vain; in their order. The workers share them."""
        asked = [(problem, Response(t.text, len(t.tokens_T), t.stop, max_tokens)) for problem, t in pairs]
        parts = [asked[index :: len(self.workers)] for index in range(len(self.workers))]
        found: list[Verdict] = [_UNHEARD] * len(asked)
        pending = [(i, worker, worker.judge.remote(parts[i])) for i, worker in enumerate(self.workers) if parts[i]]
        for index, worker, reference in pending:
            try:
                found[index :: len(self.workers)] = ray.get(reference)
            except RayActorError as error:
                self._replace(index, worker, error)
        return found

    def metrics(self) -> dict[str, float]:
        """`rollout/...` and `verify/...` of all batches since the last call, all workers together."""
        reports = ray.get([worker.statistics.remote() for worker in self.workers])
        columns = {name: [report[name] for report in reports] for name in reports[0]}
        judged: dict[str, float] = {}
        if "judge_requests" in columns:
            judged = {f"verify/{name}": sum(columns[name]) for name in ("judge_requests", "judge_failed")}
            judged["verify/judge_length_bias"] = max(columns["judge_length_bias"])
        if calls := sum(columns["library_calls"]):
            took = zip(columns["library_calls"], columns["latency_mean_s"], strict=True)
            judged["verify/latency_mean_s"] = sum(count * mean for count, mean in took) / calls
        return {
            "rollout/occupancy": sum(columns["occupancy"]) / len(reports),
            "rollout/prefill_tokens": sum(columns["prefill_tokens"]),
            "rollout/prefill_saved_tokens": sum(columns["saved_prefill_tokens"]),
            "rollout/tokens_per_s": sum(columns["tokens_per_s"]),
            "rollout/queue_s": sum(columns["queue_s"]) / len(reports),
            "rollout/preemptions": sum(columns["preemptions"]),
            "rollout/restarts": float(self.restarts),
            "verify/latency_max_s": max(columns["latency_max_s"]),
            "verify/queue_depth": max(columns["queue_depth_max"]),
            "verify/timeouts": sum(columns["timeouts"]),
            "verify/infra_errors": sum(columns["infra_errors"]),
            **judged,
        }

    def close(self) -> None:
        """Let the workers end their verifier processes, then themselves."""
        for worker in self.workers:
            try:
                ray.get(worker.close.remote(), timeout=10)
            except (RayActorError, RayTaskError, ray.exceptions.GetTimeoutError):
                pass  # it is killed next
            ray.kill(worker)
        self.workers = []
