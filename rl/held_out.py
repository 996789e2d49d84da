"""The problems that evaluations ask, and an account of those they leave out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from lightning_cispo.configs.schema import DataConfig
from lightning_cispo.rewards.verdict import Problem
from lightning_cispo.rl.curriculum import Courses
from lightning_cispo.rl.data.sources import open_sources
from lightning_cispo.rl.prompts import PATIENCE, PromptMaker, task_problems
from lightning_cispo.rl.types import Prompt

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass
class HeldOut:
    """Distinct held-out prompts, the same ones whatever the run's seed, and why there are not more."""

    asked: int  # evaluation.problems
    max_prompt_tokens: int
    generated: bool  # without end, so that nothing lies beyond what was asked for
    prompts: list[Prompt] = field(default_factory=list)
    too_long: int = 0
    repeated: int = 0
    beyond: int = 0  # rows after the last one that was asked for

    @property
    def left_out(self) -> int:
        """Problems that an evaluation of the whole source would have."""
        return self.too_long + self.repeated * (not self.generated) + self.beyond

    def __str__(self) -> str:
        """`25 of 30 problems; left out: 5 longer than data.max_prompt_tokens=1024`; without a reason none is named."""
        missing = self.generated and len(self.prompts) < self.asked
        reasons = {
            f"longer than data.max_prompt_tokens={self.max_prompt_tokens}": self.too_long,
            "repeated": 0 if self.generated else self.repeated,
            f"beyond evaluation.problems={self.asked}": self.beyond,
        }
        found = [f"{count:,} {reason}" for reason, count in reasons.items() if count]
        if missing:
            found.append(f"no others among {PATIENCE:,} generated")
        total = self.asked if self.generated and found else len(self.prompts) + self.left_out
        said = f"{len(self.prompts):,}{f' of {total:,}' if found else ''} problem{'' if total == 1 else 's'}"
        return f"{said}; left out: {', '.join(found)}" if found else said


def held_out_prompts(data: DataConfig, tokenizer: PreTrainedTokenizerBase, count: int) -> HeldOut:
    """Up to `count` prompts from the evaluation file, or the held-out share of what trains.

    Raises ValueError for a data set that can't be used.
    """
    make = PromptMaker(data, tokenizer)
    held = HeldOut(count, data.max_prompt_tokens, generated=bool(data.tasks) and not data.eval)
    seen: set[int] = set()
    for problem in _held_out_problems(data, make) if count else ():
        if len(held.prompts) == count:
            if held.generated:
                break
            held.beyond += 1
        elif (identity := make.identity(problem)) in seen:
            held.repeated += 1
        else:
            seen.add(identity)
            if (prompt := make(problem)) is None:
                held.too_long += 1
            else:
                held.prompts.append(prompt)
    return held


def _held_out_problems(data: DataConfig, make: PromptMaker) -> Iterator[Problem]:
    sources = open_sources(data)
    if sources.eval is not None:
        yield from sources.eval
    elif sources.train is not None:
        rows = sources.train
        yield from (rows[int(index)] for index in np.flatnonzero(rows.keys_N % 100 < data.held_out_percent))
    else:
        problem_at = task_problems(data.tasks, -1, Courses([replace(task, curriculum=None) for task in data.tasks]))
        yield from filter(make.held_out, map(problem_at, range(PATIENCE)))
