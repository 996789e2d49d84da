"""Log-probabilities of sampled tokens in OpenAI's two shapes."""

from __future__ import annotations

import codecs
import functools
import math
from collections.abc import Sequence
from typing import Any

from transformers.convert_slow_tokenizer import bytes_to_unicode

from model.generation.requests import Token


def chat_logprobs(tokens: Sequence[Token], tokenizer: Any) -> dict[str, Any]:
    def entry(token: int, logprob: float) -> dict[str, Any]:
        piece = token_bytes(tokenizer, token)
        return {"token": _spelling(piece), "logprob": _finite(logprob), "bytes": list(piece)}

    content = [
        {**entry(token.id, token.logprob), "top_logprobs": [entry(*pair) for pair in token.top]} for token in tokens
    ]
    return {"content": content, "refusal": None}


def completion_logprobs(tokens: Sequence[Token], tokenizer: Any, offset: int) -> dict[str, Any]:
    """`offset`: characters of the choice's text before these tokens."""
    pieces = [token_bytes(tokenizer, token.id) for token in tokens]
    characters = codecs.getincrementaldecoder("utf-8")("replace")
    offsets = []
    for piece in pieces:
        offsets.append(offset)
        offset += len(characters.decode(piece))
    return {
        "tokens": [_spelling(piece) for piece in pieces],
        "token_logprobs": [_finite(token.logprob) for token in tokens],
        "top_logprobs": [_top(token, tokenizer) for token in tokens],
        "text_offset": offsets,
    }


def _top(token: Token, tokenizer: Any) -> dict[str, float]:
    """The likeliest tokens and the sampled one, which need not be among them.

    Of several ids with one spelling, the sampled or else the likeliest counts: it is the last to be written.
    """
    pairs = [*reversed(token.top), (token.id, token.logprob)]
    return {_spelling(token_bytes(tokenizer, i)): _finite(logprob) for i, logprob in pairs}


def token_bytes(tokenizer: Any, token: int) -> bytes:
    """What the token stands for, also where it is a part of a character and decodes to U+FFFD."""
    text = tokenizer.decode([token])
    if "\ufffd" not in text:
        return text.encode()
    letters, piece = _letters(), tokenizer.convert_ids_to_tokens(token)
    # Another alphabet than that of byte-level vocabularies: its partial characters are not known.
    return bytes(letters[letter] for letter in piece) if letters.keys() >= set(piece) else text.encode()


@functools.cache
def _letters() -> dict[str, int]:
    """The byte that each letter of a byte-level vocabulary stands for."""
    return {letter: byte for byte, letter in bytes_to_unicode().items()}


def _spelling(piece: bytes) -> str:
    """The text, or as OpenAI writes what is none: bytes:\\xc3."""
    try:
        return piece.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in piece)


def _finite(logprob: float) -> float:
    """JSON has no infinity; the protocol writes -9999 for what can't be drawn."""
    return logprob if math.isfinite(logprob) else -9999.0
