"""A run: its folder, its actors, where it stands; what the programs of this room share."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from types import TracebackType

import numpy as np
import ray
import torch

from lightning_cispo.configs.errors import ConfigError
from lightning_cispo.configs.load import load_yaml, to_yaml
from lightning_cispo.configs.schema import OptimizerConfig, RunConfig
from lightning_cispo.kernels.native.library import library
from lightning_cispo.model import checkpoint
from lightning_cispo.model.aside import clear_asides, write_text_aside
from lightning_cispo.model.folders import weights_folder
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
from lightning_cispo.train.checkpoints import Checkpoints
from lightning_cispo.train.cluster.cleanup import cleaned_up
from lightning_cispo.train.cluster.session import ray_session
from lightning_cispo.train.console import Console
from lightning_cispo.train.ended import finite_or_ended
from lightning_cispo.train.folder import free_name
from lightning_cispo.train.interrupt import StopRequest
from lightning_cispo.train.learner_group import LearnerGroup
from lightning_cispo.train.lock import FolderInUse, sole_user
from lightning_cispo.train.memory import MemorySampler, cluster_megabytes, total_megabytes
from lightning_cispo.train.metrics import STEP_PHASES
from lightning_cispo.train.schedule import stretched
from lightning_cispo.train.skipped import SkippedUpdates
from lightning_cispo.train.state import RunState, load_state, resume_point
from lightning_cispo.train.tracking import Tracker
from lightning_cispo.train.verdicts import settled
from lightning_cispo.train.weights import in_parts, network_config, tokenizer_name, weights_state


class Run:
    """Opened by `with`: folder, tracker, Ray, learner and workers come up, and go down with it, also on errors."""

    def __init__(self, config: RunConfig, learner: bool = True, rollouts: bool = True):
        if config.resume:
            self.folder, self.resumed = resume_point(config.resume)
        else:
            config = replace(config, name=free_name(Path(config.runs_dir), config.name))
            self.folder, self.resumed = Path(config.runs_dir) / config.name, None
        self.config = config
        self.state = load_state(self.resumed) if self.resumed else RunState()
        self.weights_known = True  # whether `state` tells which steps made the published weights
        self.trains, self._rollouts = learner, rollouts
        self._step_began = 0.0
        self._stack = ExitStack()

    def __enter__(self) -> Run:
        try:
            self._open()
        except BaseException as error:
            self._stack.__exit__(type(error), error, error.__traceback__)
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.tracker.exit_code = self.stop.exit_code
        self._stack.__exit__(kind, error, at)

    def _open(self) -> None:
        config, state = self.config, self.state
        learner, rollouts = self.trains, self._rollouts
        self.stop = self._stack.enter_context(StopRequest())
        self._stack.enter_context(cleaned_up())
        self._claim_folder()
        config = self.config
        clear_asides(self.folder)
        self.console = Console(config.tracking.progress)
        self.console.line(f"run folder {self.folder}")
        self.skipped = SkippedUpdates(self.folder, config.learner.max_skipped_updates, self.console.line)
        if config.resume:
            planned = load_yaml(self.folder / "config.yaml").steps
            if said := stretched(config.optimizer, planned, config.steps):
                self.console.line(said)
        write_text_aside(self.folder / "config.yaml", to_yaml(config))
        self.checkpoints = Checkpoints(self.folder, config.checkpoints, self.resumed)
        for name in self.checkpoints.set_aside:
            self.console.line(f"going on from {state.label}: the later checkpoint is now checkpoints/{name}")
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
        cluster = self._stack.enter_context(ray_session(config.cluster, ranks, workers, self.folder / "ray-logs"))
        self.stop.install()
        model = network_config(config)
        if learner:
            self.learner = LearnerGroup(config, model, cluster.learner_placement)
            self._stack.callback(self.learner.close)
        if rollouts:
            self.rollouts = Rollouts(config, model, tokenizer_name(config), cluster.rollout_placement)
            self._stack.callback(self.rollouts.close)
            self.rollouts.wait_until_ready()
        pids = self.learner.connect() if learner else []
        measure = total_megabytes
        if config.cluster.address:
            everyone = cluster_megabytes(lambda: [*pids, *(self.rollouts.wait_until_ready() if rollouts else [])])
            measure = self._stack.enter_context(everyone)
        self.memory = self._stack.enter_context(MemorySampler(measure))

    def _claim_folder(self) -> None:
        """Hold the run's folder. A new run whose name another one has taken meanwhile gets the next free one."""
        while True:
            self.folder.mkdir(parents=True, exist_ok=True)
            try:
                self._stack.enter_context(sole_user(self.folder))
                return
            except FolderInUse:
                if self.config.resume:
                    raise
            self.config = replace(self.config, name=free_name(Path(self.config.runs_dir), self.config.name))
            self.folder = Path(self.config.runs_dir) / self.config.name

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
        self.stop.patient = True  # from here on there is something to save

    def steps(self) -> Iterator[int]:
        """RL steps still to do, from 1; ends early once a stop was asked for."""
        self._step_began = time.monotonic()
        while self.state.step < self.config.steps and self.stop.signal is None:
            yield self.state.step + 1

    def generate(self, prompts: list[Prompt], draw: Draw) -> list[Group]:
        """Raises Stopped once a stop was asked for: a resumed run generates the same responses again."""
        with self.console.bar(len(prompts), "generate", "prompt") as bar:
            return self.rollouts.collect(prompts, draw, lambda _: bar.update(1), self.stop.check)

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
            parts = [ray.put(part) for part in in_parts(checkpoint.read(weights_folder(folder), verify=False))]
        except CheckpointError as error:
            raise ConfigError(f"checkpoint={folder}: {error}") from None
        self.rollouts.publish(parts, self.state.step)

    def evaluate(self) -> list[Group]:
        """Held-out responses under the published weights, logged and traced under the current step.

        Raises Stopped once a stop was asked for; a resumed run evaluates again. The random streams are the same every
        time, so that evaluations differ by the weights alone.
        """
        started, options = time.monotonic(), self.config.evaluation
        prompts = self.held_out.prompts
        if not prompts:
            return []
        seed = stream_key("evaluation", self.config.seed)
        draw = Draw(options.samples, options.temperature, self.config.sampling.max_tokens, seed)
        with self.console.bar(len(prompts), "evaluate", "prompt") as bar:
            groups = self.rollouts.collect(prompts, draw, lambda _: bar.update(1), self.stop.check)
        guarded(self.rollouts.metrics)  # else the next step's would count these responses too
        self.tracker.log_traces(self.state.step, groups, kind="eval", decode=self._decode)
        seconds = time.monotonic() - started
        metrics = {**guarded(evaluation_metrics, groups), "eval/left_out": float(self.held_out.left_out)}
        metrics["time/evaluate_s"] = seconds
        self.tracker.log(self.state.step, metrics)
        self.checkpoints.score(self.state, metrics)
        self._step_began += seconds
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

    def evaluation_due(self) -> bool:
        """Whether the configuration asks for an evaluation after the steps done and none was made, by a kill maybe."""
        step, every = self.state.step, self.config.evaluation.every
        due = step in (0, self.config.steps) or bool(every) and step % every == 0
        return due and step not in self.tracker.evaluated

    def finish_supervised_step(self, metrics: dict[str, float]) -> None:
        """Count a step of the warm start, record it, and save where it is time to."""
        self.state.warm_start_step += 1
        self._note_positions()
        self.tracker.log(0, {f"warm_start/{name}": value for name, value in metrics.items()})
        if self.checkpoints.due(self.state.warm_start_step):
            self.save()

    def finish_step(self, groups: list[Group], metrics: dict[str, float]) -> None:
        """Count the step, record it, then save, then evaluate, where it is time to."""
        config, state = self.config, self.state
        state.step += 1
        self._note_positions()
        began = time.monotonic()
        self.tracker.log_traces(state.step, groups, kind="train", decode=self._decode)
        metrics["time/record_s"] = time.monotonic() - began
        metrics |= self._step_times(metrics)
        tokens = sum(len(trajectory.tokens_T) for group in groups for trajectory in group.trajectories)
        metrics |= {
            "throughput/tokens_per_s": tokens / max(1e-9, metrics["time/step_s"]),
            "throughput/generate_tokens_per_s": tokens / max(1e-9, metrics["time/generate_s"]),
        }
        if self.memory.latest is not None:
            metrics["memory/total_mb"] = self.memory.latest
        self.tracker.log(state.step, metrics)
        self.console.step(state.step, config.steps, metrics)
        evaluates = self.evaluation_due()
        if self.checkpoints.due(state.step) or state.step == config.steps or evaluates and config.checkpoints.best:
            self.save()
        self.checkpoints.score(state, metrics)
        if evaluates:
            self.evaluate()

    def _note_positions(self) -> None:
        """Where the streams stand after a step: what is saved while the next one generates begins there again."""
        state = self.state
        state.position, state.warm_start_position = self.prompts.position, self.warm_start_prompts.position
        state.courses = self.prompts.courses.state()

    def _step_times(self, metrics: dict[str, float]) -> dict[str, float]:
        """The time since the previous step was measured, checkpoints and evaluations left out, and what no phase has.

        All steps, evaluations and checkpoints together are the time of the loop.
        """
        now = time.monotonic()
        whole, self._step_began = now - self._step_began, now
        phases = sum(metrics.get(f"time/{phase}_s", 0.0) for phase in STEP_PHASES)
        return {"time/step_s": whole, "time/other_s": whole - phases}

    def _decode(self, tokens_T: np.ndarray) -> str:
        return decode(self.tokenizer, tokens_T.tolist())

    def save(self) -> None:
        """Save all that the run needs to go on, unless the newest checkpoint is of this very step.

        Raises RunEnded, and leaves the former ones, where the weights are not finite.
        """
        state, name = self.state, tokenizer_name(self.config)
        state.expert_load_E = self.learner.expert_load_E
        self.tracker.sync()
        with finite_or_ended():
            seconds = self.checkpoints.save(state, lambda folder: self.learner.save(str(folder.resolve()), name))
        if seconds is None:
            return
        warm = {} if state.step else {"warm_start/step": state.warm_start_step}
        self.tracker.log(state.step, {"time/checkpoint_s": seconds, **warm})
        self._step_began += seconds
