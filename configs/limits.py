"""Bounds of values by their type, for every key alike: finite numbers, integers that fit, texts that say something."""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Iterator
from typing import Any

from lightning_cispo.configs.keys import all_keys, type_of, without_none
from lightning_cispo.configs.schema import RunConfig

# Bounds and clips that infinity switches off.
_MAY_BE_INFINITE = {
    "algorithm.is_weight_max",
    "algorithm.truncated_is_max",
    "algorithm.eps_high",
    "optimizer.grad_clip",
    "warm_start.optimizer.grad_clip",
    "rewards.clip_min",
    "rewards.clip_max",
}
_MAY_BE_EMPTY = {
    "data.instruction",
    "data.system",
    "sampling.closing_text",
    "rewards.judge.model",
    "rewards.judge.template",
}
_MOST = {
    "seed": 2**64 - 1,
    "steps": 10**12,
    "algorithm.prompts_per_step": 10**6,
    "algorithm.group_size": 10**6,
    "evaluation.samples": 10**6,
    "rollout.slots": 10**6,
    "rollout.workers": 10**4,
    "rollout.threads": 1024,
    "learner.threads": 1024,
    "learner.world_size": 10**5,
    "rewards.processes": 1024,
    "rewards.memory_mb": 2**30,
    "rewards.code.memory_mb": 2**30,
    "cluster.object_store_mb": 2**30,
}
_MOST_OF_OTHERS = 2**53  # exact in JSON and in floats
_MOST_NAME_BYTES = 200  # of the 255 of a folder's name; "evaluate-" and a number may be added
_WANDB_NAME = re.compile(r"[^/\\#?%:\s]{1,128}")


def beyond_limits(config: RunConfig) -> Iterator[str]:
    """One line for each value that no program could use."""
    for key in all_keys():
        value, kind = operator.attrgetter(key)(config), without_none(type_of(key))
        if value is None:
            continue
        if kind is int and abs(value) > _MOST.get(key, _MOST_OF_OTHERS):
            yield f"{key}={value}: must be at most {_MOST.get(key, _MOST_OF_OTHERS)}"
        elif kind is str and key not in _MAY_BE_EMPTY and not value.strip():
            yield f"{key}={value}: must not be empty{_null(key)}"
        elif key in ("data.train", "data.eval") and not all(name.strip() for name in value):
            yield f"{key}={', '.join(value)}: must not be empty; null names none"
    yield from _names(config)


def not_finite(config: RunConfig) -> Iterator[str]:
    """One line for each number that is none, where no key's own check says more."""
    for key in all_keys():
        value = operator.attrgetter(key)(config)
        if isinstance(value, float) and not math.isfinite(value):
            if math.isnan(value) or key not in _MAY_BE_INFINITE:
                yield f"{key}={value}: must be a finite number"


def _null(key: str) -> str:
    kind = type_of(key)
    return "; null leaves it out" if kind is not without_none(kind) else ""


def _names(config: RunConfig) -> Iterator[str]:
    name = config.name
    if name in (".", "..") or "/" in name or not name.isprintable():
        yield f"name={_shown(name)}: must be the name of a folder in runs_dir={config.runs_dir}"
    elif len(name.encode("utf-8", "surrogatepass")) > _MOST_NAME_BYTES:
        yield f"name={name[:20]}...: must be at most {_MOST_NAME_BYTES} bytes long"
    tracking: dict[str, Any] = {"tracking.project": config.tracking.project, "tracking.entity": config.tracking.entity}
    for key, value in tracking.items():
        if value is not None and not _WANDB_NAME.fullmatch(value):
            yield f"{key}={_shown(value)}: must be a name of at most 128 characters without spaces and /\\#?%:"


def _shown(text: str) -> str:
    return text if text.isprintable() else repr(text)
