"""Problems as a function of (family, params, seed, index)."""

from __future__ import annotations

import hashlib
import json
import typing
from collections.abc import Mapping
from dataclasses import fields
from functools import lru_cache
from typing import Any

from lightning_cispo.rewards.logic.compact import COMPACT
from lightning_cispo.rewards.logic.derived import settled
from lightning_cispo.rewards.logic.families import ADMITTED, REJECTED, Judge
from lightning_cispo.rewards.logic.puzzles import MAX_DIFFICULTY, PUZZLES
from lightning_cispo.rewards.verdict import Problem

_ATTEMPTS = 200


def generate(family: str, params: Mapping[str, Any], seed: int, index: int) -> Problem:
    """One problem, the same whenever and wherever it is asked for.

    Raises what `check_params` would have said as ValueError.
    """
    if family in PUZZLES:
        puzzle = PUZZLES[family].generate(f"{family}/{_position(seed, index)}", params.get("difficulty", 0))
        return Problem(puzzle.question, puzzle.answer, "logic", family, {"data": puzzle.data})
    if family not in ADMITTED:
        raise ValueError(_unknown(family))
    made, question, gold = _sound(family, params, seed, index)
    metadata = made["metadata"]
    entry: dict[str, Any] = {}
    if family in COMPACT:
        entry["compact"] = COMPACT[family](metadata)
    if ADMITTED[family] is Judge.library:
        # Once through JSON, so that what is scored is what travels.
        entry["metadata"] = json.loads(json.dumps(metadata))
        entry["params"] = dict(params)
    return Problem(question, gold, "logic", family, entry)


def _sound(family: str, params: Mapping[str, Any], seed: int, index: int) -> tuple[dict[str, Any], str, str]:
    """The index's first problem whose gold can be derived from its question: the library's entry, question and gold."""
    problems = dataset(family, json.dumps(dict(params), sort_keys=True))
    for attempt in range(_ATTEMPTS):
        try:
            made = problems[_position(seed, f"{index}/{attempt}" if attempt else index)]
        except RuntimeError:  # the library gives up on this one: a maze without room for its goal, say
            continue
        found = settled(family, made["question"], str(made["answer"]))
        if found:
            return made, *found
    raise ValueError(f"{family}: none of {_ATTEMPTS} problems in a row has one answer with params {dict(params)}")


def _position(seed: int, index: int | str) -> int:
    # The library draws from Random(seed + index): neighbouring seeds would share all but one of their problems.
    return int.from_bytes(hashlib.blake2b(f"{seed}/{index}".encode(), digest_size=4).digest(), "big")


@lru_cache(maxsize=64)
def dataset(family: str, params: str) -> Any:
    """The family's dataset for `params` (JSON). Raises ValueError for impossible ones."""
    from reasoning_gym.factory import DATASETS

    dataset_class, config_class = DATASETS[family]
    try:
        return dataset_class(config=config_class(**json.loads(params), seed=0))
    except (AssertionError, TypeError, ValueError) as error:
        raise ValueError(f"{family}: {error}") from error


def check_params(family: str, params: Mapping[str, Any]) -> str | None:
    """One line that says what is wrong with the family or its params; None if nothing."""
    if family in PUZZLES:
        return _check_puzzle(family, params)
    if family not in ADMITTED:
        return _unknown(family)
    from reasoning_gym.factory import DATASETS

    config_class = DATASETS[family][1]
    known = {field.name for field in fields(config_class)} - {"seed", "size"}
    kinds = typing.get_type_hints(config_class)
    for name, value in params.items():
        if name not in known:
            return f"{family} has no parameter {name!r}; it has: {', '.join(sorted(known))}"
        if not _fits(value, kinds[name]):
            wanted = getattr(kinds[name], "__name__", str(kinds[name]))
            return f"{family}: {name}={value!r} must be {wanted}"
    try:
        dataset(family, json.dumps(dict(params), sort_keys=True))
    except (TypeError, ValueError) as error:
        return str(error)
    return None


def _check_puzzle(family: str, params: Mapping[str, Any]) -> str | None:
    for name, value in params.items():
        if name != "difficulty":
            return f"{family} has no parameter {name!r}; it has: difficulty"
        if not _fits(value, int) or not 0 <= value <= MAX_DIFFICULTY:
            return f"{family}: difficulty={value!r} must be an int from 0 to {MAX_DIFFICULTY}"
    return None


def _fits(value: Any, kind: Any) -> bool:
    """Scalars are held to their type; what is richer is left to the family's own validation."""
    if kind is bool:
        return isinstance(value, bool)
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if kind is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if kind is str:
        return isinstance(value, str)
    if typing.get_origin(kind) in (list, tuple):
        return isinstance(value, (list, tuple))
    return True


def _unknown(family: str) -> str:
    if family in REJECTED:
        return f"{family} is not admitted: {REJECTED[family]}"
    return f"unknown family {family!r}; one of: {', '.join(sorted([*ADMITTED, *PUZZLES]))}"
