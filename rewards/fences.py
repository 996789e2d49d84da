"""The code in a response: fenced blocks of Markdown, and which of them is the answer. Linear time, parses no Python."""

from __future__ import annotations

import re
from typing import NamedTuple

_PYTHON = re.compile(r"(?:\{code-cell\}\s*)?\{?[\s.]*(?:i?python|py|pypy)[\d.]*(?![\w.+#-])", re.IGNORECASE)
_MARKDOWN = re.compile(r"(?:markdown|md)\b", re.IGNORECASE)
# What decides whether a line of Python begins inside a string of several lines.
_STRINGS = re.compile(r"#.*|\\.|'''|\"\"\"|'(?:[^'\\\n]|\\.)*'?|\"(?:[^\"\\\n]|\\.)*\"?")
_MARKDOWN_DEPTH = 3


class Block(NamedTuple):
    """`info` is what stands behind the opening fence."""

    info: str
    text: str

    @property
    def python(self) -> bool:
        return _PYTHON.match(self.info) is not None


class Fence(NamedTuple):
    """A line that may open or close a block: `indent` blanks, a number of the same character, a text."""

    indent: int
    character: str
    length: int
    info: str

    @property
    def opens(self) -> bool:
        return self.character == "~" or "`" not in self.info  # else it is code within a line

    @property
    def may_be_python(self) -> bool:
        return not self.info or _PYTHON.match(self.info) is not None

    def ends(self, opened: Fence) -> bool:
        if self.character != opened.character or self.length < opened.length:
            return False
        if self.info:  # the next block's: no line of Python begins so
            return self.opens and opened.info != "" and opened.may_be_python
        return self.indent <= opened.indent + 3


def answer(text: str, depth: int = 0) -> str | None:
    """The last block that is said to be Python, else the last one without a language, else the last of all.

    The whole text if it has no block; None where that is blank. A block may be open at the end. A block of
    Markdown counts as text.
    """
    text = text.replace("\r\n", "\n")
    found = [block for block in blocks(text) if block.text.strip()]
    if not found:
        return text if text.strip() and not any(map(_fence, text.split("\n"))) else None
    for wanted in ([b for b in found if b.python], [b for b in found if not b.info], found):
        if wanted:
            break
    last = wanted[-1]
    return answer(last.text, depth + 1) if _MARKDOWN.match(last.info) and depth < _MARKDOWN_DEPTH else last.text


def blocks(text: str) -> list[Block]:
    """All fenced blocks, without the indentation of their opening fence.

    A fence closes a block if it is of the same character and at least as long, has no text behind it, is at most
    three blanks deeper than the opening one, and doesn't stand in a string of Python.
    """
    found: list[Block] = []
    opened: Fence | None = None
    lines: list[str] = []
    quote = ""  # of the string that the next line of a block begins in
    for line in text.split("\n"):
        fence = _fence(line)
        if opened is None:
            opened = fence if fence and fence.opens else _inline(line)
            lines, quote = [], ""
        elif fence and not quote and fence.ends(opened):
            found.append(Block(opened.info, "\n".join([*_less(lines, fence.indent - opened.indent), ""])))
            opened = fence if fence.info else None
            lines = []
        else:
            lines.append(_dedented(line, opened.indent))
            quote = _quote(line, quote) if opened.may_be_python else ""
    if opened is not None:
        found.append(Block(opened.info, "\n".join(lines)))
    return found


def _fence(line: str) -> Fence | None:
    text = line.strip(" \t")
    bare = text.lstrip(text[:1]) if text[:1] in ("`", "~") else text
    length = len(text) - len(bare)
    if length < 3:
        return None
    return Fence(_blanks(line), text[0], length, bare.strip(" \t"))


def _inline(line: str) -> Fence | None:
    """A fence at the end of a line of text: it opens a block only if it says that Python follows."""
    before, fence, info = line.rpartition("```")
    info = info.strip(" \t")
    return Fence(0, "`", 3, info) if fence and before.strip() and info and _PYTHON.fullmatch(info) else None


def _less(lines: list[str], blanks: int) -> list[str]:
    """Without the indentation of the closing fence, where the opening one's isn't to be seen, as behind a bullet."""
    deep = all(_blanks(line) >= blanks for line in lines if line.strip())
    return [_dedented(line, blanks) for line in lines] if blanks > 0 and deep else lines


def _blanks(line: str) -> int:
    return len(line) - len(line.lstrip(" \t"))


def _dedented(line: str, blanks: int) -> str:
    return line[min(blanks, _blanks(line)) :]


def _quote(line: str, quote: str) -> str:
    """The triple quote that is open after the line, if one was open before it or not."""
    at = 0
    while True:
        if quote:
            end = _closing(line, quote, at)
            if end < 0:
                return quote
            at, quote = end, ""
        opening = next((m for m in _STRINGS.finditer(line, at) if m[0] in ("'''", '"""')), None)
        if opening is None:
            return ""
        quote, at = opening[0], opening.end()


def _closing(line: str, quote: str, at: int) -> int:
    """Where the text after `quote` begins; -1 if it isn't closed in this line."""
    while at < len(line):
        if line[at] == "\\":
            at += 2
        elif line.startswith(quote, at):
            return at + 3
        else:
            at += 1
    return -1
