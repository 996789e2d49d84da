"""The bytes that each token stands for: of text, a token may hold a part of a character."""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from typing import Any

_FALLBACK = re.compile("<0x([0-9A-F]{2})>")  # a byte among SentencePiece's tokens


@functools.lru_cache(maxsize=4)
def spellings(tokenizer: Any) -> list[bytes]:
    """By token id. Responses are these one after the other, as far as they are text.

    Of byte-level vocabularies (M1's) they are exact. Of others they are what the decoder makes of the token after
    another: its spaces included, and U+FFFD for parts of characters that it has no byte for.
    """
    added = {id: token.content.encode() for id, token in tokenizer.added_tokens_decoder.items()}
    pieces = {id: piece for piece, id in tokenizer.get_vocab().items() if id not in added}
    letters = {letter: byte for byte, letter in enumerate(byte_letters())}
    if byte_level(tokenizer):
        spelled = {id: bytes(letters[letter] for letter in piece) for id, piece in pieces.items()}
    else:
        spelled = {id: _decoded(tokenizer, id, piece) for id, piece in pieces.items()}
    spelled |= added
    return [spelled.get(id, b"") for id in range(max(spelled) + 1)]


@functools.lru_cache(maxsize=4)
def byte_level(tokenizer: Any) -> bool:
    """Whether every token is a sequence of bytes (GPT-2's letters), so that text is their bytes one after the other."""
    added = {token.content for token in tokenizer.added_tokens_decoder.values()}
    return set(byte_letters()) >= set("".join(piece for piece in tokenizer.get_vocab() if piece not in added))


def spelled_text(tokenizer: Any, ids: Sequence[int]) -> str:
    """Return what tokens stand for, without decoding them; nothing for ids that the tokenizer does not know."""
    spelled = spellings(tokenizer)
    return b"".join(spelled[id] for id in ids if id < len(spelled)).decode(errors="replace")


def _decoded(tokenizer: Any, id: int, piece: str) -> bytes:
    if found := _FALLBACK.fullmatch(piece):
        return bytes([int(found[1], 16)])
    once, twice = (tokenizer.decode([id] * n, clean_up_tokenization_spaces=False) for n in (1, 2))
    return twice[len(once) :].encode()


def byte_letters() -> list[str]:
    """The printable character that stands for each byte in byte-level vocabularies (GPT-2's table)."""
    printable = {*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(0x100, 0x200))
    return [chr(byte) if byte in printable else chr(next(others)) for byte in range(256)]
