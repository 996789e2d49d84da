"""Prompts from generated tasks or data sets, in an order that is a function of the seed; held-out ones never train."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lightning_cispo.configs.schema import ChatTemplate, DataConfig, PromptStyle, TaskConfig
from lightning_cispo.model.chat import prompt_text
from lightning_cispo.model.generation.randomness import stream_key
from lightning_cispo.model.tokenizer import encode, encode_filled
from lightning_cispo.rewards import logic
from lightning_cispo.rewards.verdict import Problem
from lightning_cispo.rl.curriculum import Courses
from lightning_cispo.rl.types import Prompt

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Draws in a row without a usable problem after which a task is too small for what is asked of it.
PATIENCE = 20_000


@dataclass
class PromptStream:
    """Endless prompts; `position` and the courses' state are all there is to save and restore."""

    draw: Callable[[int], Prompt | None]  # None: this position has no usable problem
    courses: Courses
    position: int = 0

    def take(self, count: int) -> list[Prompt]:
        """The next `count` distinct prompts, in order. Curricula go down from levels with too few.

        Raises ValueError when the source has too few.
        """
        prompts: dict[int, Prompt] = {}
        misses = 0
        while len(prompts) < count:
            prompt = self.draw(self.position)
            self.position += 1
            if prompt and prompt.id not in prompts:
                prompts[prompt.id] = prompt
                misses = 0
                continue
            misses += 1
            if misses > self.courses.patience(PATIENCE):
                if self.courses.retreat():
                    misses = 0
                    continue
                raise ValueError(
                    f"data: only {len(prompts)} of {count} distinct prompts found; the rest are held out, repeated, "
                    "or longer than data.max_prompt_tokens"
                )
        return list(prompts.values())


class PromptMaker:
    """Problem -> Prompt: compact or worded, through the chat template, tokenised once."""

    def __init__(self, data: DataConfig, tokenizer: PreTrainedTokenizerBase):
        self.data, self.tokenizer = data, tokenizer

    def __call__(self, problem: Problem) -> Prompt | None:
        """None if the prompt is longer than data.max_prompt_tokens."""
        question = self._question(problem)
        content = question + self.data.instruction, self.data.system, self.data.chat_template
        if self.data.chat_template is ChatTemplate.plain:  # may be rendered already, special tokens included
            tokens = encode(self.tokenizer, prompt_text(*content))
        else:
            tokens = encode_filled(self.tokenizer, prompt_text, *content)
        if len(tokens) > self.data.max_prompt_tokens:
            return None
        return Prompt(self.identity(problem), problem, np.array(tokens, dtype=np.int32))

    def identity(self, problem: Problem) -> int:
        """A prompt's id, without making it."""
        return stream_key(problem.task, self._question(problem))

    def held_out(self, identity: int) -> bool:
        """Whether a prompt belongs to the held-out share: a property of its content, so the two sides can't overlap."""
        return identity % 100 < self.data.held_out_percent

    def _question(self, problem: Problem) -> str:
        return logic.compact(problem) if self.data.prompt_style is PromptStyle.compact else problem.prompt


def training_stream(data: DataConfig, tokenizer: PreTrainedTokenizerBase, seed: int) -> PromptStream:
    make = PromptMaker(data, tokenizer)
    courses = Courses(data.tasks)
    if data.tasks:
        problem_at = task_problems(data.tasks, seed, courses)
    else:
        assert data.train is not None
        rows = read_rows(data, data.train, data.train_split)
        problem_at = _shuffled(rows, seed)
    evaluated = set(map(make.identity, read_rows(data, data.eval, data.eval_split))) if data.eval else None

    def draw(position: int) -> Prompt | None:
        problem = problem_at(position)
        prompt = make(problem)
        if prompt is not None:
            kept_back = prompt.id in evaluated if evaluated is not None else make.held_out(prompt.id)
            prompt = None if kept_back else prompt
        courses.note(problem, usable=prompt is not None)
        return prompt

    return PromptStream(draw, courses)


def task_problems(tasks: list[TaskConfig], seed: int, courses: Courses) -> Callable[[int], Problem]:
    bounds = np.cumsum([task.weight for task in tasks])

    def problem_at(position: int) -> Problem:
        share = stream_key("task", seed, position) % (1 << 32) / (1 << 32)
        index = int(np.searchsorted(bounds, share * bounds[-1], side="right"))
        problem = logic.generate(tasks[index].family, courses.params(index), seed, position)
        return courses.mark(problem, index)

    return problem_at


def _shuffled(rows: list[Problem], seed: int) -> Callable[[int], Problem]:
    """Row order of endless epochs, each a permutation keyed by (seed, epoch)."""
    orders: dict[int, np.ndarray] = {}

    def problem_at(position: int) -> Problem:
        epoch, index = divmod(position, len(rows))
        if epoch not in orders:
            orders.clear()
            orders[epoch] = np.random.default_rng([seed, epoch]).permutation(len(rows))
        return rows[int(orders[epoch][index])]

    return problem_at


def read_rows(data: DataConfig, source: str, split: str) -> list[Problem]:
    """Problems from a local .jsonl/.json/.parquet file, or from a hub data set's split.

    Raises ValueError naming the row where the answer pattern does not match, or the column or data set that is not
    there.
    """
    from datasets import disable_progress_bars, load_dataset

    disable_progress_bars()
    if Path(source).exists():
        kind = "parquet" if source.endswith(".parquet") else "json"
        rows = load_dataset(kind, data_files=source, split="train")
    else:
        rows = _from_hub(load_dataset, source, data.subset, split)
    missing = {data.prompt_key, data.answer_key} - set(rows.column_names)
    if missing:
        raise ValueError(f"{source}: no column {sorted(missing)}; it has {rows.column_names}")
    task = _task_name(source)
    return [_row_problem(data, source, task, number, row) for number, row in enumerate(rows, 1)]


def _from_hub(load: Callable[..., Any], source: str, subset: str | None, split: str) -> Any:
    try:
        return load(source, subset, split=split)
    except Exception as error:  # of many kinds: no such data set, subset or split, no network, a script to be run
        first_line = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ValueError(f"{source}: neither a file here nor a data set of the hub: {first_line}") from error


def _task_name(source: str) -> str:
    """What metrics call the problems: the folder that a file lies in, or the data set."""
    name = Path(source).resolve().parent.name if Path(source).exists() else source
    return re.sub(r"[\s<>]+", "-", name) or "file"


def _row_problem(data: DataConfig, source: str, task: str, number: int, row: dict) -> Problem:
    raw = str(row[data.answer_key])
    answer = raw
    if data.answer_pattern:
        match = re.search(data.answer_pattern, raw)
        if not match:
            raise ValueError(f"{source}: row {number}: data.answer_pattern finds no answer in {raw[-60:]!r}")
        answer = match.group(1).strip()
    return Problem(str(row[data.prompt_key]), answer, data.verifier, task, {"solution": raw})
