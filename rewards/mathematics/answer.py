"""Find the final answer in a response: the last `\\boxed{}`, or a last line that states one.

Work is linear in the text. Regular expressions see at most MAX_LINE_CHARS characters.
"""

from __future__ import annotations

import re

from lightning_cispo.rewards.answer import final_text
from lightning_cispo.rewards.mathematics.literals import is_number

MAX_ANSWER_CHARS = 500
MAX_ANSWER_DEPTH = 20
MAX_LINE_CHARS = MAX_ANSWER_CHARS + 100  # of a line without a box: the answer and the words before it
_MAX_BOX_CHARS = 4 * MAX_ANSWER_CHARS  # of a box that is looked at; one that holds more is too long in any case

_BOX = "\\boxed"
_BOXES = re.compile(r"\\boxed")
_SIGNS = re.compile(r"\\.|[{}]", re.DOTALL)
_MOST_MENTIONS = 8  # of `\\boxed` without content, as in "as asked in \\boxed", that are skipped at the end
# What `\boxed 5` holds without braces: a number or one letter, with nothing attached to it.
_BARE = re.compile(r"[ \t]{0,5}([+-]?\d[\d.,]{0,40}(?<=\d)|(?<=[ \t])[A-Za-z])(?=[\s$.,;:!?)\]*]|\\[)\]]|$)", re.ASCII)
_SAYS_ANSWER = re.compile(
    r"[-*•#> ]{0,8}(?:(?:so|thus|hence|therefore)\b,? {0,3})?(?:(?:the|my) )?(?:final |correct )?"
    r"answer(?: is)? {0,3}[ :=] {0,3}(\S.*)|#### {0,3}(\S.*)",
    re.IGNORECASE,
)


def extract(text: str) -> str | None:
    """Return the answer that a response commits to, or None.

    The answer follows the last `</think>`. Without a box it is the last line, if that says "answer: ..." or
    "#### ...", or is nothing but a number.
    """
    final = final_text(text)
    if final is None:
        return None
    end = len(final)
    for _ in range(_MOST_MENTIONS):
        start = final.rfind(_BOX, 0, end)
        if start < 0:
            break
        content = start + len(_BOX)
        opening = _opening(final, content)
        if opening is not None:
            closing = closed_box(final, opening, opening + _MAX_BOX_CHARS)
            if closing is None and len(final) < opening + _MAX_BOX_CHARS:
                return None
            return final[opening + 1 : closing or opening + _MAX_BOX_CHARS].strip() or None
        if bare := _BARE.match(final, content):
            return bare[1]
        end = start
    else:
        return None
    return _stated(final)


def only_box(text: str) -> int | None:
    """Return where the brace of the only `\\boxed{` opens; None if there is no or more than one."""
    found = [opening for match in _BOXES.finditer(text) if (opening := _opening(text, match.end())) is not None]
    return found[0] if len(found) == 1 else None


def closed_box(text: str, start: int, end: int | None = None) -> int | None:
    """Return the index before `end` of the brace that closes the one at `start`, or None.

    `\\{` and `\\}` are signs, not braces.
    """
    depth = 0
    for sign in _SIGNS.finditer(text, start, len(text) if end is None else end):
        if len(sign[0]) == 1:
            depth += 1 if sign[0] == "{" else -1
            if depth == 0:
                return sign.start()
    return None


def beyond_caps(answer: str) -> str:
    """Say why an answer is too long or too deeply nested to be read; empty if it is not."""
    if len(answer) > MAX_ANSWER_CHARS:
        return f"answer of more than {MAX_ANSWER_CHARS} characters"
    depth = deepest = 0
    for character in answer:
        depth += (character in "{([") - (character in "})]")
        deepest = max(deepest, depth)
    if deepest > MAX_ANSWER_DEPTH or answer.count("^") > MAX_ANSWER_DEPTH:
        return f"answer nested more than {MAX_ANSWER_DEPTH} deep"
    return ""


def _opening(text: str, start: int) -> int | None:
    """Return where a brace opens at `start`, after a few blanks at most."""
    blanks = len(head := text[start : start + 10]) - len(head.lstrip())
    return start + blanks if head[blanks : blanks + 1] == "{" else None


def _stated(final: str) -> str | None:
    line = final[final.rfind("\n") + 1 :]
    if len(line) > MAX_LINE_CHARS:
        return None
    line = line.replace("**", "").replace("__", "").strip()
    said = _SAYS_ANSWER.fullmatch(line.rstrip("."))
    if said:
        return (said[1] or said[2]).strip() or None
    return line if is_number(line) else None
