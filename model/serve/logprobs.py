"""Log-probabilities of sampled tokens in OpenAI's two shapes."""

from __future__ import annotations

import codecs
import math
from collections.abc import Sequence
from typing import Any

from lightning_cispo.model.generation.requests import Token
from lightning_cispo.model.spelling import spellings


def chat_logprobs(tokens: Sequence[Token], tokenizer: Any) -> dict[str, Any]:
    def entry(token: int, logprob: float) -> dict[str, Any]:
        piece = _bytes(tokenizer, token)
        return {"token": _spelling(piece), "logprob": _finite(logprob), "bytes": list(piece)}

    content = [
        {**entry(token.id, token.logprob), "top_logprobs": [entry(*pair) for pair in token.top]} for token in tokens
    ]
    return {"content": content, "refusal": None}


def completion_logprobs(tokens: Sequence[Token], tokenizer: Any, offset: int) -> dict[str, Any]:
    """`offset`: characters of the choice's text before these tokens."""
    pieces = [_bytes(tokenizer, token.id) for token in tokens]
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
    return {_spelling(_bytes(tokenizer, i)): _finite(logprob) for i, logprob in pairs}


def _bytes(tokenizer: Any, token: int) -> bytes:
    """What the token stands for; nothing where the network has more tokens than the tokenizer."""
    known = spellings(tokenizer)
    return known[token] if token < len(known) else b""


def _spelling(piece: bytes) -> str:
    """The text, or as OpenAI writes what is none: bytes:\\xc3."""
    try:
        return piece.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in piece)


def _finite(logprob: float) -> float:
    """JSON has no infinity; the protocol writes -9999 for what can't be drawn."""
    return logprob if math.isfinite(logprob) else -9999.0
