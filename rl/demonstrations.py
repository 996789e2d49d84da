"""Short reasoning traces to start a policy from: a worked solution between <think> tags, then the answer."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from configs.schema import DataConfig
from model.generation.randomness import stream_key
from model.tokenizer import encode
from rewards.verdict import Problem
from rl.advantages import Sample
from rl.types import Prompt

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def demonstration(prompt: Prompt, data: DataConfig, direct: bool) -> str:
    """A right response to the prompt, with its reasoning or, if `direct`, without.

    Raises ValueError for a problem that has neither a worked solution nor a family that is known here.
    """
    problem = prompt.problem
    worked = _WORKED.get(problem.task)
    if worked is not None:
        thought, answer = worked(problem), problem.answer
    elif "solution" in problem.entry:
        solution = str(problem.entry["solution"])
        thought = re.sub(data.answer_pattern, "", solution).strip() if data.answer_pattern else solution
        answer = f"\\boxed{{{problem.answer}}}"
    else:
        raise ValueError(f"data.tasks: no demonstrations for {problem.task}; those with some: {', '.join(sorted(_WORKED))}")
    return answer if direct else f"<think>{thought}</think>{answer}"


def demonstration_samples(
    prompts: list[Prompt], data: DataConfig, tokenizer: PreTrainedTokenizerBase, seed: int, step: int, direct_fraction: float
) -> list[Sample]:
    """One supervised batch: every response token counts, averaged over the batch."""
    rows = []
    for index, prompt in enumerate(prompts):
        share = stream_key("direct", seed, step, index) % (1 << 32) / (1 << 32)
        text = demonstration(prompt, data, direct=share < direct_fraction)
        rows.append((prompt.tokens_T, np.array([*encode(tokenizer, text), tokenizer.eos_token_id], np.int32)))
    total = sum(len(response) for _, response in rows)
    return [_sample(prompt_T, response_T, 1 / total) for prompt_T, response_T in rows]


def _sample(prompt_T: np.ndarray, response_T: np.ndarray, scale: float) -> Sample:
    zeros = np.zeros(len(prompt_T) + len(response_T), np.float32)
    mask = np.concatenate([np.zeros(len(prompt_T), bool), np.ones(len(response_T), bool)])
    return Sample(np.concatenate([prompt_T, response_T]), mask, zeros, zeros, 1.0, scale)


def _chain_sum(problem: Problem) -> str:
    """4 + 7 - 2 -> 4+7=11;11-2=9"""
    tokens = problem.entry["metadata"]["expression"].split()
    total, steps = int(tokens[0]), []
    for operator, term in zip(tokens[1::2], tokens[2::2], strict=True):
        after = total + int(term) if operator == "+" else total - int(term)
        steps.append(f"{total}{operator}{term}={after}")
        total = after
    return ";".join(steps)


def _gcd(problem: Problem) -> str:
    """Euclid: gcd(48, 36) -> 48%36=12;36%12=0"""
    result, steps = 0, []
    for number in problem.entry["metadata"]["numbers"]:
        a, b = max(result, number), min(result, number)
        while b:
            steps.append(f"{a}%{b}={a % b}")
            a, b = b, a % b
        result = a
    return ";".join(steps)


def _lcm(problem: Problem) -> str:
    first, second = problem.entry["metadata"]["numbers"][:2]
    common = math.gcd(first, second)
    return f"gcd={common};{first}/{common}={first // common};{first // common}*{second}={problem.answer}"


def _products(problem: Problem) -> str:
    """7 * 34 -> 7*30=210;7*4=28;210+28=238"""
    first, second = (int(n) for n in problem.entry["metadata"]["expression"].split("*"))
    place, total, steps = 1, 0, []
    for digit in reversed(str(second)):
        part = first * int(digit) * place
        steps.append(f"{first}*{int(digit) * place}={part}")
        if total:
            steps.append(f"{total}+{part}={total + part}")
        total, place = total + part, place * 10
    return ";".join(steps)


_WORKED: dict[str, Callable[[Problem], str]] = {
    "chain_sum": _chain_sum,
    "gcd": _gcd,
    "lcm": _lcm,
    "products": _products,
}
