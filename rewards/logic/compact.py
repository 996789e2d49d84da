"""Problems as bare expressions, for models that read characters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lightning_cispo.rewards.verdict import Problem


def _expression(metadata: dict[str, Any]) -> str:
    return metadata["expression"].replace(" ", "") + "="


def _call(name: str) -> Callable[[dict[str, Any]], str]:
    return lambda metadata: f"{name}({','.join(map(str, metadata['numbers']))})="


def _equation(metadata: dict[str, Any]) -> str:
    return f"{metadata['equation'].replace(' ', '')};{metadata['variable']}="


def _sorting(metadata: dict[str, Any]) -> str:
    return f"{metadata['direction']}{metadata['original_numbers']}="


def _base(metadata: dict[str, Any]) -> str:
    return f"base({metadata['source_repr']},{metadata['source_base']},{metadata['target_base']})="


# From the generator's metadata to the prompt; the answer keeps the form that the worded question asks for.
COMPACT: dict[str, Callable[[dict[str, Any]], str]] = {
    "base_conversion": _base,  # base(<number>,<from>,<to>)=
    "basic_arithmetic": _expression,
    "bitwise_arithmetic": lambda metadata: metadata["problem"].replace(" ", "") + "=",
    "chain_sum": _expression,
    "count_bits": lambda metadata: f"bits({metadata['number']})=",
    "count_primes": lambda metadata: f"primes({metadata['start']},{metadata['end']})=",
    "decimal_chain_sum": _expression,
    "gcd": _call("gcd"),
    "lcm": _call("lcm"),
    "number_sorting": _sorting,
    "prime_factorization": lambda metadata: f"factors({metadata['number']})=",
    "products": _expression,
    "simple_equations": _equation,
}


def compact(problem: Problem) -> str:
    """The bare expression of a generated problem, as `4+7-2=`. Raises ValueError if its family has none."""
    if "compact" not in problem.entry:
        raise ValueError(f"{problem.task}: has no compact form; these families have one: {', '.join(sorted(COMPACT))}")
    return problem.entry["compact"]
