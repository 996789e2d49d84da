"""A run: its folder, its actors, where it stands; what the programs of this room share."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

from configs.load import to_yaml
from configs.schema import OptimizerConfig, RunConfig
from launch.ray_cluster import ray_session
from model.generation.randomness import stream_key
from model.tokenizer import load_tokenizer
from rl.prompts import held_out_prompts, training_stream
from rl.rollouts import Rollouts
from rl.summary import evaluation_metrics
from rl.types import Group, Prompt
from rl.worker import Draw
from train.console import Console
from train.interrupt import StopRequest
from train.learner_group import LearnerGroup
from train.memory import total_megabytes
from train.plan import resolve_model, tokenizer_name
from train.state import RunState, finished_checkpoints, load_state, save_state
from train.tracking import Tracker


class Run:
    """Opened with `with`: folder, tracker, Ray, learner and rollout workers come up; they go down with it, also on errors."""

    def __init__(self, config: RunConfig, learner: bool = True, rollouts: bool = True):
        self.config = config
        self.folder = Path(config.runs_dir) / config.name
        self.resumed = self._latest_checkpoint() if config.resume else None
        self.state = load_state(self.resumed) if self.resumed else RunState()
        self.state.world_size, self.state.zero_stage = config.learner.world_size, config.learner.zero_stage
        self._wants = learner, rollouts
        self._stack = ExitStack()
        self._before_s = self.state.wall_s

    def __enter__(self) -> Run:
        try:
            self._open()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _open(self) -> None:
        config = self.config
        self._started = time.monotonic()
        (self.folder / "checkpoints").mkdir(parents=True, exist_ok=True)
        (self.folder / "config.yaml").write_text(to_yaml(config))
        self.console = Console(config.tracking.progress)
        self.tracker = Tracker(self.folder, config, self.state.step if self.resumed else None)
        self._stack.callback(self.tracker.close)
        self.model, name = resolve_model(config), tokenizer_name(config)
        self._tokenizer_name = name
        self.tokenizer = load_tokenizer(name)
        self.prompts = training_stream(config.data, self.tokenizer, config.seed)
        self.warm_start_prompts = training_stream(config.data, self.tokenizer, stream_key("warm start", config.seed) % (1 << 31))
        self.prompts.position, self.warm_start_prompts.position = self.state.position, self.state.warm_start_position
        wants_learner, wants_rollouts = self._wants
        ranks, workers = config.learner.world_size * wants_learner, config.rollout.workers * wants_rollouts
        cluster = self._stack.enter_context(ray_session(config.cluster, ranks, workers))
        self.stop = self._stack.enter_context(StopRequest())
        if wants_learner:
            self.learner = LearnerGroup(config, self.model, cluster.learner_placement)
            self._stack.callback(self.learner.close)
        if wants_rollouts:
            self.rollouts = Rollouts(config, self.model, name, cluster.rollout_placement)
            self._stack.callback(self.rollouts.close)
        if wants_learner:
            self.learner.connect()
        if wants_rollouts:
            self.rollouts.wait_until_ready()

    def start_learner(self, weights: str | None, optimizer: OptimizerConfig, phase_resumed: bool) -> None:
        """A fresh optimizer over `weights`, or the resumed checkpoint's where it was saved in this phase."""
        if self.resumed and phase_resumed:
            self.learner.start(str(self.resumed / "model"), optimizer)
            self.learner.restore(str(self.resumed), self.state.expert_load_E)
        else:
            self.learner.start(weights, optimizer)

    def steps(self) -> Iterator[int]:
        """RL steps still to do, from 1; ends early once a stop was asked for."""
        while self.state.step < self.config.steps and self.stop.signal is None:
            yield self.state.step + 1

    def generate(self, prompts: list[Prompt], draw: Draw) -> list[Group]:
        with self.console.bar(len(prompts), "generate", "prompt") as bar:
            return self.rollouts.collect(prompts, draw, lambda _: bar.update(1))

    def publish(self, version: int) -> dict[str, float]:
        """The learner's weights to every worker; the version is the number of RL steps that made them."""
        started = time.monotonic()
        self.rollouts.publish(self.learner.export(), version)
        return {"time/publish_s": time.monotonic() - started, "policy/version": float(version)}

    def evaluate(self) -> dict[str, float]:
        """Held-out accuracy of the published weights, logged and traced under the current step."""
        started = time.monotonic()
        with self.console.bar(len(self.held_out), "evaluate", "prompt") as bar:
            groups = evaluate(self.config, self.rollouts, self.held_out, lambda _: bar.update(1))
        metrics = evaluation_metrics(groups)
        self.log({**metrics, "time/evaluate_s": time.monotonic() - started})
        self.tracker.log_traces(self.state.step, groups, kind="eval")
        self.console.evaluation(self.state.step, metrics)
        return metrics

    def finish_step(self, groups: list[Group], metrics: dict[str, float], seconds: float) -> None:
        """Count the step, record it, and evaluate and save where the configuration says so."""
        config = self.config
        self.state.step += 1
        tokens = sum(len(trajectory.tokens_T) for group in groups for trajectory in group.trajectories)
        rates = {
            "time/step_s": seconds,
            "throughput/tokens_per_s": tokens / seconds,
            "throughput/generate_tokens_per_s": tokens / metrics["time/generate_s"],
            "memory/total_mb": total_megabytes(),
        }
        self.log({**metrics, **rates})
        self.tracker.log_traces(self.state.step, groups, kind="train")
        self.console.step(self.state.step, config.steps, {**metrics, **rates})
        last = self.state.step == config.steps
        if last or (config.evaluation.every and self.state.step % config.evaluation.every == 0):
            self.evaluate()
        if not last and config.checkpoints.every and self.state.step % config.checkpoints.every == 0:
            self.save()

    @property
    def held_out(self) -> list[Prompt]:
        if not hasattr(self, "_held_out"):
            self._held_out = held_out_prompts(self.config.data, self.tokenizer, self.config.evaluation.problems)
        return self._held_out

    def log(self, metrics: dict[str, float]) -> None:
        self.tracker.log(self.state.step, {"time/wall_s": self.wall_s(), **metrics})

    def wall_s(self) -> float:
        return self._before_s + time.monotonic() - self._started

    def save(self) -> Path:
        state = self.state
        state.position, state.warm_start_position = self.prompts.position, self.warm_start_prompts.position
        state.expert_load_E, state.wall_s = self.learner.expert_load_E, self.wall_s()
        return save_state(
            self.folder / "checkpoints",
            state,
            lambda folder: self.learner.save(str(folder.resolve()), self._tokenizer_name),
            self.config.checkpoints.keep,
        )

    def _latest_checkpoint(self) -> Path | None:
        found = finished_checkpoints(self.folder / "checkpoints")
        return found[-1] if found else None


def evaluate(
    config: RunConfig, rollouts: Rollouts, prompts: list[Prompt], on_group: Callable[[Group], None]
) -> list[Group]:
    """Sample the held-out prompts; the same streams every time, so that evaluations differ by the weights alone."""
    options = config.evaluation
    draw = Draw(options.samples, options.temperature, config.sampling.max_tokens, stream_key("evaluation", config.seed))
    return rollouts.collect(prompts, draw, on_group)
