"""Short reasoning traces to start a policy from: a worked solution between <think> tags, then the answer."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from lightning_cispo.configs.schema import DataConfig
from lightning_cispo.model.generation.randomness import stream_key
from lightning_cispo.model.tokenizer import encode_filled
from lightning_cispo.rl.advantages import Sample
from lightning_cispo.rl.types import Prompt

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def demonstration(prompt: Prompt, data: DataConfig, direct: bool) -> str:
    """A right response to the prompt, with its reasoning or, if `direct`, without.

    Raises ValueError for a problem that has neither a worked solution nor a family that is known here.
    """
    problem = prompt.problem
    worked = _WORKED.get(problem.task)
    if worked is not None:
        thought, answer = worked(problem.entry["compact"]), problem.answer
    elif "solution" in problem.entry:
        solution = str(problem.entry["solution"])
        thought = re.sub(data.answer_pattern, "", solution).strip() if data.answer_pattern else solution
        answer = f"\\boxed{{{problem.answer}}}"
    else:
        raise ValueError(
            f"data.tasks: no demonstrations for {problem.task}; those with some: {', '.join(sorted(_WORKED))}"
        )
    return answer if direct else f"<think>{thought}</think>{answer}"


def demonstration_samples(
    prompts: list[Prompt],
    data: DataConfig,
    tokenizer: PreTrainedTokenizerBase,
    seed: int,
    step: int,
    direct_fraction: float,
) -> list[Sample]:
    """One supervised batch: every response token counts, averaged over the batch."""
    rows = []
    for index, prompt in enumerate(prompts):
        share = stream_key("direct", seed, step, index) % (1 << 32) / (1 << 32)
        text = demonstration(prompt, data, direct=share < direct_fraction)
        rows.append(
            (prompt.tokens_T, np.array([*encode_filled(tokenizer, str, text), tokenizer.eos_token_id], np.int32))
        )
    total = sum(len(response) for _, response in rows)
    return [_sample(prompt_T, response_T, 1 / total) for prompt_T, response_T in rows]


def _sample(prompt_T: np.ndarray, response_T: np.ndarray, scale: float) -> Sample:
    zeros = np.zeros(len(prompt_T) + len(response_T), np.float32)
    mask = np.concatenate([np.zeros(len(prompt_T), bool), np.ones(len(response_T), bool)])
    return Sample(np.concatenate([prompt_T, response_T]), mask, zeros, zeros, 1.0, scale)


def _chain_sum(expression: str) -> str:
    """4+7-2= -> 4+7=11;11-2=9"""
    first, *rest = re.findall(r"[+-]?\d+", expression)
    total, steps = int(first), []
    for term in rest:
        after = total + int(term)
        steps.append(f"{total}{term}={after}")
        total = after
    return ";".join(steps)


def _gcd(expression: str) -> str:
    """Euclid: gcd(48,36)= -> 48%36=12;36%12=0"""
    result, steps = 0, []
    for number in map(int, re.findall(r"\d+", expression)):
        a, b = max(result, number), min(result, number)
        while b:
            steps.append(f"{a}%{b}={a % b}")
            a, b = b, a % b
        result = a
    return ";".join(steps)


def _simple_equation(expression: str) -> str:
    """5*b+6=26;b= -> 26-6=20;20/5=4, and 5-8*e=-51;e= -> 5+51=56;56/8=7"""
    equation, _, _ = expression.partition(";")
    left, right = equation.split("=")
    value, steps = int(right), []
    if found := re.fullmatch(r"(\d+)-(.+)", left):  # the unknown is subtracted
        constant, left = int(found.group(1)), found.group(2)
        steps.append(f"{constant}{-value:+d}={constant - value}")
        value = constant - value
    elif found := re.fullmatch(r"(.+)([+-])(\d+)", left):
        left, term = found.group(1), int(found.group(3)) * (1 if found.group(2) == "-" else -1)
        steps.append(f"{value}{term:+d}={value + term}")
        value += term
    if found := re.fullmatch(r"(\d+)\*[a-z]", left):
        steps.append(f"{value}/{found.group(1)}={value // int(found.group(1))}")
    return ";".join(steps)


def _count_bits(expression: str) -> str:
    """bits(11)= -> 11,5,2,1: halves down to 1, of which the odd ones are the bits that are set."""
    number = int(re.findall(r"\d+", expression)[0])
    return ",".join(str(number >> shift) for shift in range(number.bit_length()))


# From a problem's compact form to its worked solution.
_WORKED: dict[str, Callable[[str], str]] = {
    "chain_sum": _chain_sum,
    "count_bits": _count_bits,
    "gcd": _gcd,
    "simple_equations": _simple_equation,
}
