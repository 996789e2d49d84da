"""What goes into a verifier and what comes out of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Any


class Status(str, Enum):
    passed = "pass"
    failed = "fail"
    timeout = "timeout"
    infra_error = "infra_error"


@dataclass(frozen=True)
class Problem:
    """A question with what is needed to judge an answer to it.

    `verifier` names the judge (a name in the registry or a dotted path); `task` the family the
    metrics are split by; `entry` is what a generator's own scorer wants besides the answer (JSON types).
    """

    prompt: str
    answer: str
    verifier: str
    task: str
    entry: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Response:
    """A policy's finished text. `tokens` counts all sampled tokens, the stop token included."""

    text: str
    tokens: int
    stop: str  # eos, length, repetition, interrupted
    max_tokens: int


@dataclass(frozen=True)
class Verdict:
    """`reward` None means that the infrastructure failed: the sample is masked, never scored 0.

    `correct` is the raw correctness, whatever the reward was shaped into; `parts` are the unweighted
    parts of the reward by name; `error` says in a readable sentence what went wrong, if anything did.
    """

    reward: float | None
    correct: bool
    status: Status
    parts: dict[str, float] = field(default_factory=dict)
    error: str = ""
