"""A run: its folder, its actors, where it stands; what the programs of this room share."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import ray
import torch

from lightning_cispo.configs.errors import ConfigError
from lightning_cispo.configs.load import load_yaml, to_yaml
from lightning_cispo.configs.schema import OptimizerConfig, RunConfig
from lightning_cispo.kernels.native.library import library
from lightning_cispo.launch.ray_cluster import ray_session
from lightning_cispo.model import checkpoint
from lightning_cispo.model.generation.randomness import stream_key
from lightning_cispo.model.hf_config import CheckpointError
from lightning_cispo.model.tokenizer import decode, load_tokenizer
from lightning_cispo.rl.data.sources import open_sources
from lightning_cispo.rl.guard import guarded
from lightning_cispo.rl.held_out import HeldOut, held_out_prompts
from lightning_cispo.rl.prompts import training_stream
from lightning_cispo.rl.rollouts import Rollouts
from lightning_cispo.rl.summary import evaluation_metrics, verifier_error
from lightning_cispo.rl.types import Group, Prompt
from lightning_cispo.rl.worker import Draw
from lightning_cispo.train.console import Console
from lightning_cispo.train.ended import finite_or_ended
from lightning_cispo.train.folder import free_name, last_checkpoint
from lightning_cispo.train.interrupt import StopRequest
from lightning_cispo.train.learner_group import LearnerGroup
from lightning_cispo.train.lock import sole_user
from lightning_cispo.train.memory import total_megabytes
from lightning_cispo.train.schedule import stretched
from lightning_cispo.train.skipped import SkippedUpdates
from lightning_cispo.train.state import RunState, load_state, save_state
from lightning_cispo.train.tracking import Tracker
from lightning_cispo.train.verdicts import settled
from lightning_cispo.train.weights import in_parts, network_config, tokenizer_name, weights_folder, weights_state


class Run:
    """Opened by `with`: folder, tracker, Ray, learner and workers come up, and go down with it, also on errors."""

    def __init__(self, config: RunConfig, learner: bool = True, rollouts: bool = True):
        self.resumed = last_checkpoint(Path(config.resume).resolve()) if config.resume else None
        if not config.resume:
            config = replace(config, name=free_name(Path(config.runs_dir), config.name))
        self.config, self.folder = config, Path(config.resume or Path(config.runs_dir) / config.name)
        self.state = load_state(self.resumed) if self.resumed else RunState()
        self.weights_known = True  # whether `state` tells which steps made the published weights
        self._parts = learner, rollouts
        self._stack = ExitStack()

    def __enter__(self) -> Run:
        try:
            self._open()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._stack.close()
        learner, _rollouts = self._parts
        if kind is not None and learner and last_checkpoint(self.folder):
            self.console.line(f"its last checkpoint goes on with: resume={self.folder}")

    def _open(self) -> None:
        config, state = self.config, self.state
        learner, rollouts = self._parts
        self.stop = self._stack.enter_context(StopRequest(patient=learner))
        self.folder.mkdir(parents=True, exist_ok=True)
        self._stack.enter_context(sole_user(self.folder))
        self.console = Console(config.tracking.progress)
        self.console.line(f"run folder {self.folder}")
        self.skipped = SkippedUpdates(self.folder, config.learner.max_skipped_updates, self.console.line)
        if config.resume:
            planned = load_yaml(self.folder / "config.yaml").steps
            if said := stretched(config.optimizer, planned, config.steps):
                self.console.line(said)
        (self.folder / "config.yaml").write_text(to_yaml(config))
        done = (state.step, state.warm_start_step) if config.resume else (None, None)
        self.tracker = self._stack.enter_context(Tracker(self.folder, config, *done))
        self.tokenizer = load_tokenizer(tokenizer_name(config))
        if learner:
            self._open_streams()
        elif not self.held_out.prompts:
            raise ConfigError(f"evaluation.problems: none is left to evaluate: {self.held_out}")
        if not torch.cuda.is_available():
            library()  # compiled once for all actors, or said to be missing: what they say is not shown
        ranks, workers = config.learner.world_size * learner, config.rollout.workers * rollouts
        cluster = self._stack.enter_context(ray_session(config.cluster, ranks, workers))
        self.stop.install()
        model = network_config(config)
        if learner:
            self.learner = LearnerGroup(config, model, cluster.learner_placement)
            self._stack.callback(self.learner.close)
        if rollouts:
            self.rollouts = Rollouts(config, model, tokenizer_name(config), cluster.rollout_placement)
            self._stack.callback(self.rollouts.close)
            self.rollouts.wait_until_ready()
        if learner:
            self.learner.connect()

    def _open_streams(self) -> None:
        """Training prompts from where the run stands. Raises ConfigError where the data has too few for a step."""
        config, state = self.config, self.state
        most = max(config.algorithm.prompts_per_step, config.warm_start.batch_size if config.warm_start.steps else 0)
        try:
            self.prompts, self.warm_start_prompts = (
                training_stream(config.data, self.tokenizer, config.seed) for _ in range(2)
            )
            self.prompts.take(most)
        except ValueError as error:
            named = f"data.train={', '.join(config.data.train)}: " if config.data.train else ""
            raise ConfigError(f"{named}{error}") from error
        if rows := open_sources(config.data).summary():
            self.console.line(f"data: {'; '.join(rows)}")
        self.prompts.position, self.warm_start_prompts.position = state.position, state.warm_start_position
        self.prompts.courses.restore(state.courses)

    def start_learner(self, weights: str | None, optimizer: OptimizerConfig, phase_resumed: bool) -> None:
        """A fresh optimizer over `weights`, or the resumed checkpoint's where it was saved in this phase.

        Raises ConfigError for weights that are no good.
        """
        resumed = self.resumed if phase_resumed else None
        folder = resumed / "model" if resumed else weights_folder(weights) if weights else None
        try:
            self.learner.start(str(folder) if folder else None, optimizer)
        except CheckpointError as error:
            raise ConfigError(str(getattr(error, "cause", error))) from None  # of Ray's error: what the rank raised
        if resumed:
            self.learner.restore(str(resumed), self.state.expert_load_E)

    def steps(self) -> Iterator[int]:
        """RL steps still to do, from 1; ends early once a stop was asked for."""
        while self.state.step < self.config.steps and self.stop.signal is None:
            yield self.state.step + 1

    def generate(self, prompts: list[Prompt], draw: Draw) -> list[Group]:
        with self.console.bar(len(prompts), "generate", "prompt") as bar:
            return self.rollouts.collect(prompts, draw, lambda _: bar.update(1))

    def settle(self, groups: list[Group], max_tokens: int) -> list[Group]:
        """The groups with verdicts, for which it may wait.

        Raises VerifiersDown, and Stopped once a stop was asked for.
        """
        judge = partial(self.rollouts.judge, max_tokens=max_tokens)
        return settled(groups, self.config.rollout, judge, self.console.line, self.stop.check)

    def publish(self, version: int) -> dict[str, float]:
        """The learner's weights to every worker; the version is the number of RL steps that made them.

        Raises RunEnded where they are not finite.
        """
        started = time.monotonic()
        with finite_or_ended():
            parts = self.learner.export()
        self.rollouts.publish(parts, version)
        return {"time/publish_s": time.monotonic() - started, "policy/version": float(version)}

    def publish_folder(self, folder: str) -> None:
        """Weights from disk to every worker, without a learner; the run then stands where theirs stood.

        Raises ConfigError for a checkpoint that is no good.
        """
        saved = weights_state(folder)
        self.state, self.weights_known = saved or RunState(), saved is not None
        try:
            parts = [ray.put(part) for part in in_parts(checkpoint.read(weights_folder(folder)))]
        except CheckpointError as error:
            raise ConfigError(f"checkpoint={folder}: {error}") from None
        self.rollouts.publish(parts, self.state.step)

    def evaluate(self) -> list[Group]:
        """Held-out responses under the published weights, logged and traced under the current step.

        Their random streams are the same every time, so that evaluations differ by the weights alone.
        """
        started, options = time.monotonic(), self.config.evaluation
        prompts = self.held_out.prompts
        if not prompts:
            return []
        seed = stream_key("evaluation", self.config.seed)
        draw = Draw(options.samples, options.temperature, self.config.sampling.max_tokens, seed)
        with self.console.bar(len(prompts), "evaluate", "prompt") as bar:
            groups = self.rollouts.collect(prompts, draw, lambda _: bar.update(1))
        guarded(self.rollouts.metrics)  # else the next step's would count these responses too
        self.tracker.log_traces(self.state.step, groups, kind="eval", decode=self._decode)
        metrics = {**guarded(evaluation_metrics, groups), "eval/left_out": float(self.held_out.left_out)}
        metrics["time/evaluate_s"] = time.monotonic() - started
        self.tracker.log(self.state.step, metrics)
        label = self.state.reached if self.weights_known else f"of {self.config.checkpoint}"
        self.console.evaluation(f"held out {label}", metrics, verifier_error(groups))
        return groups

    @cached_property
    def held_out(self) -> HeldOut:
        try:
            found = held_out_prompts(self.config.data, self.tokenizer, self.config.evaluation.problems)
        except ValueError as error:
            raise ConfigError(str(error)) from error
        if found.asked:
            self.console.line(f"held out: {found}")
        return found

    def finish_step(self, groups: list[Group], metrics: dict[str, float], seconds: float) -> None:
        """Count the step, record it, and evaluate and save where the configuration says so."""
        config, state = self.config, self.state
        state.step += 1
        tokens = sum(len(trajectory.tokens_T) for group in groups for trajectory in group.trajectories)
        metrics |= {
            "time/step_s": seconds,
            "throughput/tokens_per_s": tokens / max(1e-9, seconds),
            "throughput/generate_tokens_per_s": tokens / max(1e-9, metrics["time/generate_s"]),
            "memory/total_mb": total_megabytes(),
        }
        self.tracker.log(state.step, metrics)
        self.tracker.log_traces(state.step, groups, kind="train", decode=self._decode)
        self.console.step(state.step, config.steps, metrics)
        last = state.step == config.steps
        if last or (config.evaluation.every and state.step % config.evaluation.every == 0):
            self.evaluate()
        if not last and config.checkpoints.every and state.step % config.checkpoints.every == 0:
            self.save()

    def _decode(self, tokens_T: np.ndarray) -> str:
        return decode(self.tokenizer, tokens_T.tolist())

    def save(self) -> Path:
        """A checkpoint of all that the run needs to go on; written aside and renamed.

        Raises RunEnded, and leaves the former ones, where the weights are not finite.
        """
        started, state = time.monotonic(), self.state
        state.position, state.warm_start_position = self.prompts.position, self.warm_start_prompts.position
        state.courses = self.prompts.courses.state()
        state.expert_load_E = self.learner.expert_load_E
        name = tokenizer_name(self.config)
        with finite_or_ended():
            saved = save_state(
                self.folder / "checkpoints",
                state,
                lambda folder: self.learner.save(str(folder.resolve()), name),
                self.config.checkpoints.keep,
            )
        self.tracker.log(state.step, {"time/checkpoint_s": time.monotonic() - started})
        return saved
