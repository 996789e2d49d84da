"""reasoning-gym's scorers. For isolated processes only: they meet the policy's text, and the import weighs 100 MB."""

from __future__ import annotations

import json
from typing import Any

import reasoning_gym  # noqa: F401  so that the import happens before the call's deadline counts

from lightning_cispo.rewards.logic.generation import dataset


def score(family: str, params: dict[str, Any], answer: str, gold: str, metadata: dict[str, Any]) -> bool:
    """Whether the family's scorer gives full marks. Its exceptions on odd text mean that it doesn't."""
    scorer = dataset(family, json.dumps(params, sort_keys=True))
    try:
        full = scorer.score_answer(answer, {"answer": gold, "metadata": metadata}) == 1.0
    except (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError):
        return False
    return bool(full)
