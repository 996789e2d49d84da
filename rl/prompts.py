"""Prompts from generated tasks or data sets, in an order that is a function of the seed; held-out ones never train."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from lightning_cispo.configs.schema import ChatTemplate, DataConfig, PromptStyle, TaskConfig
from lightning_cispo.model.chat import prompt_text, render
from lightning_cispo.model.generation.randomness import stream_key
from lightning_cispo.model.tokenizer import encode, encode_filled, longest_token
from lightning_cispo.rewards import logic
from lightning_cispo.rewards.verdict import Problem
from lightning_cispo.rl.curriculum import Courses
from lightning_cispo.rl.data.overlap import key_of
from lightning_cispo.rl.data.sources import open_sources
from lightning_cispo.rl.types import Prompt

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Draws in a row without a usable problem after which a source is too small for what is asked of it ...
PATIENCE = 20_000
# ... and draws after which none fits where none has so far.
_LONG = 2_000
_TOO_LONG, _HELD_OUT, _REPEATED = "longer than data.max_prompt_tokens", "held out", "repeated"


@dataclass
class PromptStream:
    """Endless prompts; `position` and the courses' state are all there is to save and restore."""

    draw: Callable[[int], Prompt | str | None]  # why this position has no usable problem, instead of one
    courses: Courses
    position: int = 0
    patience: int = PATIENCE
    _found: bool = field(default=False, init=False)

    def take(self, count: int) -> list[Prompt]:
        """The next `count` distinct prompts, in order. Curricula go down from levels with too few.

        Raises ValueError when the source has too few.
        """
        prompts: dict[int, Prompt] = {}
        misses: Counter[str] = Counter()
        while len(prompts) < count:
            prompt = self.draw(self.position)
            self.position += 1
            if isinstance(prompt, Prompt) and prompt.id not in prompts:
                prompts[prompt.id] = prompt
                self._found = True
                misses.clear()
                continue
            misses[_REPEATED if isinstance(prompt, Prompt) else prompt or "unusable"] += 1
            drawn = misses.total()
            none_fits = not self._found and drawn >= _LONG and misses[_TOO_LONG] == drawn
            if none_fits or drawn > self.courses.patience(self.patience):
                if self.courses.retreat():
                    misses.clear()
                    continue
                why = ", ".join(f"{number:,} {reason}" for reason, number in misses.most_common())
                raise ValueError(
                    f"data: only {len(prompts)} of {count} distinct prompts found; of the last {drawn:,} drawn {why}"
                )
        return list(prompts.values())


class PromptMaker:
    """Problem -> Prompt: compact or worded, through the chat template, tokenised once."""

    def __init__(self, data: DataConfig, tokenizer: PreTrainedTokenizerBase):
        self.data, self.tokenizer = data, tokenizer
        self._longest = longest_token(tokenizer)

    def __call__(self, problem: Problem) -> Prompt | None:
        """None if the prompt is longer than data.max_prompt_tokens."""
        messages, question = problem.entry.get("messages"), self._question(problem)
        if self._longest and len(question.encode("utf-8", "replace")) > self.data.max_prompt_tokens * self._longest:
            return None  # told by its bytes, before it is tokenised
        tokens = self._chat_tokens(messages, problem) if messages else self._tokens(question)
        if len(tokens) > self.data.max_prompt_tokens:
            return None
        return Prompt(self.identity(problem), problem, np.array(tokens, dtype=np.int32))

    def identity(self, problem: Problem) -> int:
        """A prompt's id, without making it."""
        messages = problem.entry.get("messages")
        content = json.dumps([messages, problem.entry["tools"]]) if messages else self._question(problem)
        return stream_key(problem.task, content)

    def held_out(self, problem: Problem) -> bool:
        """Whether a problem belongs to the held-out share: by its content, so the two sides never overlap."""
        key = self.identity(problem) if self.data.tasks else key_of(problem.prompt)
        return key % 100 < self.data.held_out_percent

    def _question(self, problem: Problem) -> str:
        return logic.compact(problem) if self.data.prompt_style is PromptStyle.compact else problem.prompt

    def _tokens(self, question: str) -> list[int]:
        content = question + self.data.instruction, self.data.system, self.data.chat_template
        if self.data.chat_template is ChatTemplate.plain:  # may be rendered already, special tokens included
            return encode(self.tokenizer, prompt_text(*content))
        return encode_filled(self.tokenizer, prompt_text, *content)

    def _chat_tokens(self, messages: Sequence[dict], problem: Problem) -> list[int]:
        """A row's own turns, with data.system where they bring none, and the instruction after the user's last."""
        turns = [dict(turn) for turn in messages]
        if self.data.system and not any(turn["role"] == "system" for turn in turns):
            turns.insert(0, {"role": "system", "content": self.data.system})
        last = next(turn for turn in reversed(turns) if turn["role"] == "user")
        if isinstance(last["content"], str):
            last["content"] += self.data.instruction
        else:
            last["content"] = [*last["content"], {"type": "text", "text": self.data.instruction}]
        return encode_filled(self.tokenizer, render, turns, problem.entry["tools"])


def training_stream(data: DataConfig, tokenizer: PreTrainedTokenizerBase, seed: int) -> PromptStream:
    """Prompts that are neither held out nor in data.eval. Raises ValueError for a data set that can't be used."""
    make = PromptMaker(data, tokenizer)
    courses, sources = Courses(data.tasks), open_sources(data)
    if data.tasks:
        problem_at = task_problems(data.tasks, seed, courses)
        kept_back = make.held_out if sources.eval is None else lambda problem: problem.prompt in sources.overlap

        def draw_problem(position: int) -> Prompt | str:
            problem = problem_at(position)
            found = _kept(make(problem), kept_back)
            courses.note(problem, usable=isinstance(found, Prompt))
            return found

        return PromptStream(draw_problem, courses)
    assert sources.train is not None
    rows, row_at = sources.train, _shuffled(len(sources.train), seed)
    kept_back = make.held_out if sources.eval is None else lambda problem: False  # these are marked already

    def draw_row(position: int) -> Prompt | str:
        index = row_at(position)
        return _HELD_OUT if sources.removed_N[index] else _kept(make(rows[index]), kept_back)

    # Two epochs' length holds one whole epoch.
    return PromptStream(draw_row, courses, patience=min(PATIENCE, 2 * len(rows)))


def _kept(prompt: Prompt | None, kept_back: Callable[[Problem], bool]) -> Prompt | str:
    """The prompt, or why it doesn't train."""
    if prompt is None:
        return _TOO_LONG
    return _HELD_OUT if kept_back(prompt.problem) else prompt


def task_problems(tasks: list[TaskConfig], seed: int, courses: Courses) -> Callable[[int], Problem]:
    bounds = np.cumsum([task.weight for task in tasks])

    def problem_at(position: int) -> Problem:
        share = stream_key("task", seed, position) % (1 << 32) / (1 << 32)
        index = int(np.searchsorted(bounds, share * bounds[-1], side="right"))
        problem = logic.generate(tasks[index].family, courses.params(index), seed, position)
        return courses.mark(problem, index)

    return problem_at


def _shuffled(count: int, seed: int) -> Callable[[int], int]:
    """Row order of endless epochs, each a permutation keyed by (seed, epoch)."""
    orders: dict[int, np.ndarray] = {}

    def row_at(position: int) -> int:
        epoch, index = divmod(position, count)
        if epoch not in orders:
            orders.clear()
            orders[epoch] = np.random.default_rng([seed, epoch]).permutation(count)
        return int(orders[epoch][index])

    return row_at
