"""Our side of the timed step: the run's own actors and the loop's own functions, nothing set aside."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from lightning_cispo.configs.load import load_config
from lightning_cispo.train.loop import collect, learn
from lightning_cispo.train.run import Run
from tests.benchmarks import words
from tests.benchmarks.timing import StepTime


@dataclass(frozen=True)
class Layout:
    """How the cores are shared out. Workers and ranks take turns, so each side may use all of them."""

    workers: int
    ranks: int
    threads: int  # in all

    def overrides(self) -> list[str]:
        return [
            f"rollout.workers={self.workers}",
            f"rollout.threads={max(1, self.threads // self.workers)}",
            f"learner.world_size={self.ranks}",
            f"learner.threads={max(1, self.threads // self.ranks)}",
        ]


@dataclass(frozen=True)
class Size:
    """Responses of one step."""

    prompts: int = 4
    group_size: int = 16
    tokens: int = 64


FULL = Size()


class OwnStep:
    """One step at a time of a run that goes on."""

    def __init__(self, run: Run):
        self.run = run

    def __call__(self) -> StepTime:
        """Sample, judge, learn, publish: the body of the training loop."""
        run = self.run
        step = run.state.step + 1
        started = time.perf_counter()
        groups, sampled = collect(run, step)
        learned = learn(run, groups)
        run.publish(step)
        seconds = time.perf_counter() - started
        run.state.step = step
        generate_s = sampled["time/generate_s"]
        trained = learned["throughput/update_tokens_per_s"] * learned["time/update_s"]
        generated = sum(len(trajectory.tokens_T) for group in groups for trajectory in group.trajectories)
        return StepTime(generate_s, seconds - generate_s, generated, round(trained))


@contextmanager
def own_step(folder: Path, layout: Layout, size: Size = FULL, steps: int = 100) -> Iterator[OwnStep]:
    """A run in `folder` with the 3.9M-parameter network from random weights, ready to step."""
    # Ray starts its workers at niceness 15: beside any other job they would wait for it, and the peer would not.
    os.environ["RAY_worker_niceness"] = "0"
    words.write_tokenizer(folder / "tokenizer")
    words.write_prompts(folder / "prompts.jsonl", steps * size.prompts)
    config = load_config(
        [
            "model=tiny",
            "data=file",
            f"data.train={folder / 'prompts.jsonl'}",
            f"data.tokenizer={folder / 'tokenizer'}",
            f"data.verifier='{words.__name__}:verify'",
            "data.chat_template=plain",
            "data.instruction=''",
            f"steps={steps}",
            f"algorithm.prompts_per_step={size.prompts}",
            f"algorithm.group_size={size.group_size}",
            "algorithm.updates_per_step=1",
            "algorithm.dynamic_sampling=false",
            "learner.zero_stage=0",  # an optimizer of 47 MB is not worth sharding
            f"sampling.max_tokens={size.tokens}",
            "tracking.mode=disabled",
            f"runs_dir={folder}",
            *layout.overrides(),
        ]
    )
    with Run(config) as run:
        run.start_learner(None, config.optimizer, phase_resumed=False)
        run.publish(0)
        yield OwnStep(run)
