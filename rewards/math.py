"""Final answers to mathematics questions: found, held against cheats, compared exactly before anything else.

What is judged is the last `\\boxed{}` after the last `</think>`. Without a box it is the last line, and only
if that says "answer: ..." or "#### ..." or is nothing but a number. Policy where graders differ:

- one answer: a list with more parts than the gold, "5 or 6", "2 != 3" or 5 6 is wrong, whatever it contains;
- a gold that math-verify can't read (`0.\\overline{3}`) is a data error at load, named with its row, never a reward;
- exact: a decimal equals a fraction only if it is the same number; 0.333 is not 1/3, 3.14 is not pi;
- `1.5e3` is a programmer's spelling and no answer; `1.5 \\cdot 10^3` is; a magnitude in words (`5 million`) must be
  the gold's own;
- a unit, a currency sign, a degree sign and thousands separators are not judged; `50%` equals 50 and 0.5;
- `x=5` answers 5, another number on the left (`6=5`) doesn't; a ratio `1:2` equals only itself;
- a word in `\\text{}` is compared as a word, without case; choices `C`, `(C)` and `\\text{(C)}` are equal.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from lightning_cispo.rewards.answer import final_text
from lightning_cispo.rewards.isolated import CallOutOfMemory, CallTimeout, IsolatedPool
from lightning_cispo.rewards.judgement import Call, Decision
from lightning_cispo.rewards.latex import magnitudes, number, parts, same_latex, squeeze, word

MAX_ANSWER_CHARS = 500
MAX_ANSWER_DEPTH = 20

_LIBRARY = "lightning_cispo.rewards.math_library"
_SAYS_ANSWER = re.compile(
    r"(?:(?:so|thus|hence|therefore)\b,? *)?(?:(?:the|my) )?(?:final )?answer(?: is)?[ :=]+(.+)|#### *(.+)",
    re.IGNORECASE,
)
_HEDGE = re.compile(
    r"\b(?:not|either|neither|maybe|perhaps|possibly|unless|but)\b|\\(?:neq?|approx|sim|lor|land|vee|wedge)\b"
)
_SPACED_DIGITS = re.compile(r"\d(?:\s|~|\\[ ,;:]|\\q?quad|\\(?:text|mbox|mathrm)\{\s*\})+\d", re.ASCII)
_BASE = re.compile(r"_\{?(\d+)\}?$")


def extract(text: str) -> str | None:
    """The answer that a response commits to, or None."""
    final = final_text(text)
    if final is None:
        return None
    start = final.rfind("\\boxed")
    if start >= 0:
        return _braced(final, start + len("\\boxed"))
    line = final.splitlines()[-1].strip().strip("*").strip()
    said = _SAYS_ANSWER.fullmatch(line.rstrip("."))
    if said:
        return (said[1] or said[2]).replace("**", "").strip() or None
    return line if number(line) is not None else None


def _braced(text: str, start: int) -> str | None:
    """What the braces that open at `start` hold; None if they don't open there, don't close, or hold nothing."""
    if text[start : start + 1] != "{":
        return None
    depth, position = 0, start
    while position < len(text):
        if text[position] == "\\":
            position += 1  # \{ and \} are signs, not braces
        elif text[position] in "{}":
            depth += 1 if text[position] == "{" else -1
            if depth == 0:
                return text[start + 1 : position].strip() or None
        position += 1
    return None


def judge(gold: str, text: str) -> Decision | Call:
    """Judge a response's text against the gold answer (LaTeX, with or without `$`)."""
    answer = extract(text)
    if answer is None:
        return Decision(False, "no final answer: neither a closed \\boxed{} nor a last line that states one")
    too_much = _beyond_caps(answer)
    if too_much:
        return Decision(False, too_much)
    if answer == gold.strip():
        return Decision(True)
    wrong = _evasive(answer, gold)
    if wrong:
        return Decision(False, wrong)
    return _compare(answer, gold)


def _compare(answer: str, gold: str) -> Decision | Call:
    if same_latex(answer, gold):
        return Decision(True)
    different = Decision(False, f"{answer!r} is not {gold!r}"[:300])
    theirs, ours = number(answer), number(gold)
    if theirs is not None and ours is not None:
        return Decision(True) if theirs.matches(ours) else different
    wanted = word(gold)
    if wanted is not None:
        return Decision(True) if word(answer, any_length=True) == wanted else different
    if ":" in answer or ":" in gold:
        return different
    return Call(f"{_LIBRARY}:equivalent", (squeeze(answer), squeeze(gold)))


def _beyond_caps(answer: str) -> str:
    if len(answer) > MAX_ANSWER_CHARS:
        return f"answer of more than {MAX_ANSWER_CHARS} characters"
    depth = deepest = 0
    for character in answer:
        depth += (character in "{([") - (character in "})]")
        deepest = max(deepest, depth)
    if deepest > MAX_ANSWER_DEPTH or answer.count("^") > MAX_ANSWER_DEPTH:
        return f"answer nested more than {MAX_ANSWER_DEPTH} deep"
    return ""


def _evasive(answer: str, gold: str) -> str:
    """Why an answer doesn't commit to one thing of the gold's shape; empty if it does."""
    if _HEDGE.search(answer) and not _HEDGE.search(gold):
        return "the answer hedges"
    if magnitudes(answer) != magnitudes(gold):
        return "another order of magnitude"
    given, asked = _count(answer), _count(gold)
    if given != asked:
        return f"{given} answers where {asked} {'is' if asked == 1 else 'are'} asked for"
    if _SPACED_DIGITS.search(squeeze(answer)) and not _SPACED_DIGITS.search(squeeze(gold)):
        return "two numbers side by side"
    for theirs, ours in zip(parts(answer), parts(gold), strict=False):
        left, equals, right = theirs.partition("=")
        if equals and "=" not in ours and ("=" in right or not re.match(r"\s*\\?[A-Za-z]", left)):
            return "an equation where a value is asked for"
    bases = [match[1] if (match := _BASE.search(squeeze(text))) else None for text in (answer, gold)]
    return "another base" if None not in bases and bases[0] != bases[1] else ""


def _count(text: str) -> int:
    return sum(2 if "\\pm" in part or "\\mp" in part else 1 for part in parts(text))


def check_golds(
    golds: Sequence[str], processes: int = 1, timeout_s: float = 10.0, memory_mb: int = 1024
) -> list[str | None]:
    """For each gold answer what is wrong with it, or None. Equal ones are looked at once; most need no library."""
    found: dict[str, str | None] = {}
    hard: list[str] = []
    for gold in dict.fromkeys(golds):
        found[gold] = "empty answer" if not gold.strip() else _beyond_caps(gold.strip()) or None
        if found[gold] is None and number(gold) is None and word(gold) is None and ":" not in gold:
            hard.append(gold)
    if hard:
        with IsolatedPool(processes, timeout_s, memory_mb) as pool:
            futures = {gold: pool.submit(f"{_LIBRARY}:parses", [squeeze(gold)]) for gold in hard}
            for gold, future in futures.items():
                try:
                    found[gold] = None if future.result() else f"not a mathematical expression: {gold!r}"
                except (CallTimeout, CallOutOfMemory) as error:
                    found[gold] = f"can't be parsed: {error}"
    return [found[gold] for gold in golds]


def check_gold(gold: str) -> str | None:
    """`check_golds` for one; each call that needs the library starts a process for it."""
    return check_golds([gold])[0]
