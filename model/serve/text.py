"""Tokens to text as they come: whole characters only, and nothing that a stop string may yet take back."""

from __future__ import annotations

import codecs
from collections.abc import Sequence
from typing import Any

from lightning_cispo.model.spelling import byte_level, spellings
from lightning_cispo.model.tokenizer import decode, eos_ids

_UNFINISHED = "\ufffd"  # what a decoder shows for the beginning of a character


class _ByteText:
    """Decode tokens of a byte-level vocabulary: each token's bytes go to an incremental UTF-8 decoder."""

    def __init__(self, tokenizer: Any):
        self._bytes, self._eos = spellings(tokenizer), set(eos_ids(tokenizer))
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._held = b""  # of an eos that may be the last token, which no text shows

    def push(self, token: int) -> str:
        """Return the characters that the token completes."""
        spelled = self._bytes[token] if token < len(self._bytes) else b""
        ready, self._held = (self._held, spelled) if token in self._eos else (self._held + spelled, b"")
        return self._decoder.decode(ready)

    def finish(self) -> str:
        return self._decoder.decode(b"", final=True)


class _WindowText:
    """Decode tokens of other vocabularies, whose decoders look back: two settled stretches are decoded together."""

    def __init__(self, tokenizer: Any):
        self.tokenizer = tokenizer
        self._ids: list[int] = []
        self._context = self._shown = 0  # tokens before the window, and those whose text is returned

    def push(self, token: int) -> str:
        """Return the text that the token settles: none while it ends inside a character."""
        self._ids.append(token)
        whole = decode(self.tokenizer, self._ids[self._context :])
        return "" if whole.endswith(_UNFINISHED) else self._take(whole)

    def finish(self) -> str:
        return self._take(decode(self.tokenizer, self._ids[self._context :]))

    def _take(self, whole: str) -> str:
        known = decode(self.tokenizer, self._ids[self._context : self._shown])
        self._context, self._shown = self._shown, len(self._ids)
        return whole[len(known) :]


class GrowingText:
    """The text of a response that grows token by token; its pieces joined are `decode` of all tokens.

    `text` is what is settled, `stopped` whether a stop string has ended it: the text then ends before that string. One
    that is complete within the first `min_tokens` is text like any other.
    """

    def __init__(self, tokenizer: Any, stops: Sequence[str] = (), min_tokens: int = 0):
        self.stops, self.min_tokens = stops, min_tokens
        self.text, self.stopped = "", False
        self._decoder = _ByteText(tokenizer) if byte_level(tokenizer) else _WindowText(tokenizer)
        self._count = 0
        self._pending = ""  # may be the beginning of a stop string

    def push(self, token: int) -> str:
        """Take a token; returns the text that is settled by it."""
        if self.stopped:
            return ""
        self._count += 1
        return self._settle(self._decoder.push(token), final=False)

    def finish(self) -> str:
        """What is left when no token follows."""
        return "" if self.stopped else self._settle(self._decoder.finish(), final=True)

    def _settle(self, new: str, final: bool) -> str:
        pending = self._pending + new
        stops = self.stops if self._count > self.min_tokens else ()
        # What was pending may hold one that was complete too early.
        starts = (pending.find(stop, max(0, len(self._pending) - len(stop) + 1)) for stop in stops)
        found = [at for at in starts if at >= 0]
        if found:
            settled, self._pending, self.stopped = pending[: min(found)], "", True
        else:
            held = 0 if final else max((_overlap(pending, stop) for stop in self.stops), default=0)
            settled, self._pending = pending[: len(pending) - held], pending[len(pending) - held :]
        self.text += settled
        return settled


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that `stop` begins with."""
    return next((n for n in range(min(len(text), len(stop) - 1), 0, -1) if stop.startswith(text[-n:])), 0)


class ReplySplitter:
    """A chat response as it streams: thinking first, then the answer; tool calls are held back for the end.

    Without the blank lines that both begin with, and the white space that ends the thinking or comes before the calls.
    """

    def __init__(self, calls: bool):
        self._text, self._calls = "", calls
        self._thinking: bool | None = None  # not known before the first characters
        self._begun = False  # the thinking or the answer: more than blank lines has come

    def push(self, new: str, final: bool = False) -> tuple[str, str]:
        """Returns what is settled of (thinking, answer)."""
        self._text += new
        thinking = answer = ""
        if self._thinking is None:
            start = self._text.lstrip()
            if not final and "<think>".startswith(start):
                return "", ""
            self._thinking = start.startswith("<think>")
            self._text = start.removeprefix("<think>") if self._thinking else self._text
        if self._thinking:
            thinking, closed = self._until("</think>", final)
            if not closed:
                self._text = "" if final else self._text
                return thinking, ""
            self._thinking, self._begun = False, False
            self._text = self._text.lstrip().removeprefix("</think>")
        if self._calls:
            answer, _ = self._until("<tool_calls>", final)
        else:
            self._begin()
            answer, self._text = self._text, ""
        return thinking, answer

    def _begin(self) -> None:
        if not self._begun:
            self._text = self._text.lstrip("\n")
            self._begun = bool(self._text)

    @property
    def rest(self) -> str:
        """What is held back: after the end, the calls with the white space before them."""
        return self._text

    def _until(self, tag: str, final: bool) -> tuple[str, bool]:
        """Text before the tag, or what can't be the tag's beginning. The tag stays, and the white space before it."""
        self._begin()
        at = self._text.find(tag)
        end = at if at >= 0 else len(self._text) - (0 if final else _overlap(self._text, tag))
        end = len(self._text[:end].rstrip())
        found, self._text = self._text[:end], self._text[end:]
        return found, at >= 0
