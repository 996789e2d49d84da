"""A run whose learner counts and whose workers recite: everything around them is real. No Ray, no torch."""

from __future__ import annotations

import hashlib
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from lightning_cispo.configs.load import load_config
from lightning_cispo.configs.schema import RunConfig
from lightning_cispo.model.aside import clear_asides
from lightning_cispo.model.tokenizer import load_tokenizer
from lightning_cispo.rewards.verdict import Status, Verdict
from lightning_cispo.rl.statistics import UpdateSums
from lightning_cispo.rl.types import Group, Prompt, Trajectory
from lightning_cispo.train.checkpoints import Checkpoints
from lightning_cispo.train.console import Console
from lightning_cispo.train.interrupt import StopRequest
from lightning_cispo.train.learner_group import StepReport
from lightning_cispo.train.memory import MemorySampler
from lightning_cispo.train.run import Run
from lightning_cispo.train.skipped import SkippedUpdates
from lightning_cispo.train.tracking import Tracker

CONFIG = (
    "experiment=smoke warm_start.steps=4 tracking.mode=disabled evaluation.problems=3 evaluation.every=2 "
    "algorithm.updates_per_step=1"
).split()


def config(folder: Path, *overrides: str) -> RunConfig:
    return load_config([*CONFIG, f"runs_dir={folder}", *overrides])


class Learner:
    """Its weights are a text, which every update extends by a digest of what it was given."""

    def __init__(self) -> None:
        self.weights, self.moments, self.expert_load_E = "", 0, None

    def start(self, weights: str | None, optimizer: Any) -> None:
        self.weights, self.moments = (Path(weights) / "weights").read_text() if weights else "", 0

    def restore(self, folder: str, load_E: Any) -> None:
        self.moments = int((Path(folder) / "learner").read_text())

    def save(self, folder: str, tokenizer: str) -> None:
        (Path(folder) / "model").mkdir()
        (Path(folder) / "model/config.json").write_text("{}")
        (Path(folder) / "model/weights").write_text(self.weights)
        (Path(folder) / "learner").write_text(str(self.moments))

    def update(self, samples: list[Any], lr: float, algorithm: Any) -> StepReport:
        given = hashlib.sha256(b"".join(sample.tokens_T.tobytes() for sample in samples)).hexdigest()
        self.moments += 1
        self.weights = hashlib.sha256(f"{self.weights} {self.moments} {given}".encode()).hexdigest()
        return StepReport(UpdateSums(), 0.5)

    def export(self) -> str:
        return self.weights


class Rollouts:
    """Responses are a function of weights, seed, prompt and sample."""

    def __init__(self, on_prompt: Callable[[int], None]) -> None:
        self.weights, self.on_prompt, self.count = "", on_prompt, 0

    def publish(self, weights: str, version: int) -> None:
        self.weights = weights

    def collect(self, prompts: list[Prompt], draw: Any, on_group: Any, check: Callable[[], None]) -> list[Group]:
        groups = []
        for prompt in prompts:
            self.count += 1
            self.on_prompt(self.count)
            check()
            groups.append(Group(prompt, [self._answer(prompt, draw.seed, i) for i in range(draw.samples)]))
        return groups

    def _answer(self, prompt: Prompt, seed: int, sample: int) -> Trajectory:
        text = hashlib.sha256(f"{self.weights} {seed} {prompt.id} {sample}".encode()).hexdigest()[:8]
        ones = np.ones(len(text))
        right = int(text, 16) % 2 == 0
        return Trajectory(
            np.frombuffer(text.encode(), np.uint8).astype(np.int32),
            ones.astype(bool),
            -ones.astype(np.float32),
            ones.astype(np.int32),
            "eos",
            text,
            Verdict(float(right), right, Status.passed if right else Status.failed, {"correct": float(right)}),
            sample,
        )

    def judge(self, groups: list[Group], max_tokens: int) -> list[Group]:
        return groups  # every response has its verdict

    def metrics(self) -> dict[str, float]:
        return {}


class SmallRun(Run):
    """`on_prompt` is called with the number of prompts begun, evaluations counted in."""

    def __init__(self, config: RunConfig, on_prompt: Callable[[int], None] = lambda count: None):
        super().__init__(config)
        self.on_prompt = on_prompt

    def _open(self) -> None:
        self.stop = StopRequest()
        self.folder.mkdir(parents=True, exist_ok=True)
        clear_asides(self.folder)
        self.console = Console(progress=False)
        self.skipped = SkippedUpdates(self.folder, 3, self.console.line)
        self.checkpoints = Checkpoints(self.folder, self.config.checkpoints, self.resumed)
        done = (self.state.step, self.state.warm_start_step) if self.config.resume else (None, None)
        self.tracker = self._stack.enter_context(Tracker(self.folder, self.config, *done))
        self.tokenizer = load_tokenizer(self.config.data.tokenizer)
        self._open_streams()
        self.learner: Any = Learner()
        self.rollouts: Any = Rollouts(self.on_prompt)
        self.memory = MemorySampler(lambda: 1.0)

    def ask_to_stop(self) -> None:
        """What the signal's handler does."""
        self.stop.signal = signal.SIGTERM
