"""What goes into the engine and what comes out of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from lightning_cispo.configs.schema import LEAST_TEMPERATURE, MOST_STOP_BYTES, stop_bytes


@dataclass(frozen=True)
class Token:
    """One token as it is sampled, for whoever watches a response grow."""

    sample: int
    id: int
    logprob: float
    top: list[tuple[int, float]]  # the likeliest tokens with their log-probabilities, if asked for


# Called with every token of a request, in order within each sample.
Observer = Callable[[Token], None]


AGAIN = 64  # tokens from one look at thinking to the next


@dataclass(frozen=True)
class Interruption:
    """Where thinking is not `closed` after `after` tokens, `closing_T` is written in the policy's place.

    Looked at again every `AGAIN` tokens: thinking that begins anew, or that late, is closed too.
    """

    after: int
    closing_T: list[int]
    closed: Callable[[np.ndarray], bool]  # of the response's tokens so far


@dataclass(frozen=True)
class Request:
    """Samples of one prompt. `keys` names a random stream for each sample (`randomness.stream_key`)."""

    id: int
    prompt_T: np.ndarray  # int, at least one token
    keys: list[int]
    max_tokens: int
    temperature: float = 1.0  # 0: greedy, the first of the likeliest tokens
    top_p: float = 1.0  # of what top_k has left; 1: all
    top_k: int = 0  # 0: all
    min_tokens: int = 0  # before these, neither eos nor a stop id can be drawn, and no stop string ends a response
    stop_ids: tuple[int, ...] = ()  # beside the engine's eos
    stop_strings: tuple[str, ...] = ()  # the token that completes one ends the response, wherever it began
    interruption: Interruption | None = None
    observer: Observer | None = None
    top_logprobs: int = 0  # for the observer


def problem(request: Request, max_length: int, vocabulary: int) -> str | None:
    """Why the request can't be served by an engine with room for `max_length` tokens; None if it can."""
    prompt, wanted, cut = len(request.prompt_T), request.max_tokens, request.interruption
    if prompt == 0 or wanted < 1:
        return "needs a prompt and max_tokens >= 1"
    ids = np.asarray(request.prompt_T)
    if not 0 <= ids.min() <= ids.max() < vocabulary:
        return f"the prompt holds a token id outside of the vocabulary of {vocabulary}"
    if prompt + wanted > max_length:
        return f"a prompt of {prompt} tokens and max_tokens={wanted} exceed the {max_length} that there is room for"
    if not request.keys:
        return "needs at least one sample"
    if not (request.temperature == 0 or request.temperature >= LEAST_TEMPERATURE):
        return f"needs a temperature of 0 (greedy) or at least {LEAST_TEMPERATURE}"
    if not (0 < request.top_p <= 1 and request.top_k >= 0 and request.min_tokens >= 0):
        return "needs 0 < top_p <= 1, top_k >= 0 and min_tokens >= 0"
    if request.stop_strings and not all(request.stop_strings):
        return "needs stop strings that are not empty"
    if stop_bytes(request.stop_strings) > MOST_STOP_BYTES:
        return f"its stop strings are longer than {MOST_STOP_BYTES} bytes together"
    if cut and not 1 <= cut.after < wanted - len(cut.closing_T):
        return f"thinking of {cut.after} tokens and its closing leave nothing of max_tokens={wanted} to answer in"
    return None


@dataclass(frozen=True)
class Completion:
    """One finished response. Arrays have its length, the stop token included.

    Log-probabilities are those of the distribution that was drawn from: tempered, and cut and renormalised where top-p,
    top-k or min_tokens cut it. Greedy tokens have those of temperature 1. Tokens that an interruption wrote have 0.
    """

    request_id: int
    sample: int
    tokens_T: np.ndarray  # int32
    logprobs_T: np.ndarray  # float32
    versions_T: np.ndarray  # int32, of the weights that sampled each
    chosen_T: np.ndarray  # bool: the policy chose it, not an interruption
    stop: str  # eos, stop (a stop id or string), length, repetition; interrupted: eos after an interruption
    routing_TLK: np.ndarray | None = None  # experts of prompt and response but its last token, which goes nowhere


@dataclass
class EngineStats:
    """Counters since the last reset."""

    steps: int = 0
    slot_steps: int = 0  # decoded tokens: occupied slots summed over steps
    prefill_tokens: int = 0
    saved_prefill_tokens: int = 0  # not read again for the other samples of a group
    preemptions: int = 0
    started: int = 0  # samples that got a slot
    queue_s: float = 0.0  # from submission to the first slot, summed over samples
