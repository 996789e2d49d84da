"""What goes into the engine and what comes out of it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Request:
    """Samples of one prompt. `keys` names a random stream for each sample (`randomness.stream_key`)."""

    id: int
    prompt_T: np.ndarray  # int, at least one token
    keys: list[int]
    max_tokens: int
    temperature: float = 1.0


@dataclass(frozen=True)
class Completion:
    """One finished response. Arrays have its length, the stop token included."""

    request_id: int
    sample: int
    tokens_T: np.ndarray  # int32
    logprobs_T: np.ndarray  # float32
    versions_T: np.ndarray  # int32
    stop: str  # eos, length, repetition


@dataclass
class EngineStats:
    """Counters since the last reset."""

    steps: int = 0
    slot_steps: int = 0  # decoded tokens: occupied slots summed over steps
    prefill_tokens: int = 0
    saved_prefill_tokens: int = 0  # not read again for the other samples of a group
