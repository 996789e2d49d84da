"""Verifier `math`: final answers to mathematics questions, held against cheats and compared exactly.

What is judged is the last `\\boxed{}` after the last `</think>`. Without a box it is the last line, and only
if that says "answer: ..." or "#### ..." or is nothing but a number. Policy where graders differ:

- One answer. More answers than the gold has, "5 or 6", "5 \\approx 6" or `5 6` are wrong, whatever they contain.
- Exact. A decimal equals a fraction only if it is the same number: 0.333 is not 1/3, 3.14 is not pi.
- Lists and sets. A bare list is a set: `1,2,3`, `\\{3,2,1\\}` and "1, 2 and 3" are equal, and `\\pm 3` is `\\{-3,3\\}`.
  Nothing may be repeated. A single value is a set of one.
- Tuples and intervals. `(1,2)` has an order and equals no list or set. Brackets count: `[0,1)` is not `(0,1)`.
  `1 < x \\le 3` is `(1,3]`, `x \\ne 3` is the line without 3. A column is no row.
- Names. `x = 5` answers 5, and `(x,y) = (3,4)` answers `(3,4)`, as does `x = 3, y = 4`. All sides of
  `x = 10/2 = 5` must be the gold. `6 = 5` and `x = 6 = 5` are wrong. Equations are equal if one is a multiple of
  the other.
- Units are a list (`mathematics/units.py`). A unit may be left out, but not changed: `5` answers `5 cm`, `5 m` doesn't.
  What is not on the list belongs to the answer: `2 ab` is not 2. `5 million` is 5,000,000.
- `50\\%` equals 50 and 0.5. A ratio `1:2` equals only a ratio. `1.5e3` is 1500, `0.\\overline{3}` is 1/3.
- `i` is the imaginary unit and `e` is Euler's number, in any font.
- A word in `\\text{}` is compared as a word, without case. Choices `C`, `(C)` and `\\textbf{(C)}\\ 5` are equal.
- Evaluated (`rewards.math.evaluated`). Where the gold is a number, the answer must be at least as evaluated, or the
  question's own formula would be an answer. For a rational gold that is a number written out: an integer, a decimal,
  a fraction in lowest terms, a mixed number, scientific notation. `91/26` does not answer 7/2, nor `2^{10}` 1024.
  For a gold with roots, `\\pi`, `e` or `i` no arithmetic between rational numbers, no root of a square factor, no
  power or product of sums and no sum below the line may be left that the gold does not have, nor more irrational
  terms or a function. `\\frac{1}{\\sqrt 2}` answers `\\frac{\\sqrt 2}{2}`; `\\sqrt{50}` does not answer `5\\sqrt 2`.
- A gold that is no mathematics (`None`, `\\frac{`) is a data error at load, named with its row, never a reward.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lightning_cispo.rewards.isolated import CallOutOfMemory, CallTimeout, IsolatedPool
from lightning_cispo.rewards.judgement import Call, Decision
from lightning_cispo.rewards.mathematics.answer import beyond_caps, extract
from lightning_cispo.rewards.mathematics.literals import literal
from lightning_cispo.rewards.mathematics.spelling import squeeze, unspaced
from lightning_cispo.rewards.mathematics.units import contradict
from lightning_cispo.rewards.mathematics.words import is_no_answer, word

__all__ = ["MathOptions", "check_gold", "check_golds", "extract", "judge"]

_LIBRARY = "lightning_cispo.rewards.mathematics.verify"


@dataclass(frozen=True)
class MathOptions:
    """Settings of the verifier, as `configs.schema` documents them."""

    evaluated: bool = True


def judge(gold: str, text: str, options: MathOptions = MathOptions()) -> Decision | Call:  # noqa: B008
    """Judge a response's text against the gold answer (LaTeX, with or without `$`).

    Decides at once what text and plain numbers can decide, in time linear in the text. The rest is a call.
    """
    answer = extract(text)
    if answer is None:
        return Decision(False, "no final answer: neither a closed \\boxed{} nor a last line that states one")
    too_much = beyond_caps(answer)
    if too_much:
        return Decision(False, too_much)
    if answer == gold.strip() or unspaced(squeeze(answer)) == unspaced(squeeze(gold)):
        return Decision(True)
    theirs, ours = literal(answer), literal(gold, gold=True)
    if theirs is None or ours is None:
        return Call(f"{_LIBRARY}:equivalent", (answer, gold, options.evaluated))
    if not theirs.matches(ours) or contradict(theirs.unit, ours.unit):
        return Decision(False, f"{answer!r} is not {gold!r}"[:300])
    if options.evaluated and ours.evaluated and not theirs.evaluated:
        return Decision(False, f"{answer!r} equals {gold!r}, but is less evaluated"[:300])
    return Decision(True)


def check_golds(
    golds: Sequence[str], processes: int = 1, timeout_s: float = 10.0, memory_mb: int = 1024
) -> list[str | None]:
    """For each gold answer what is wrong with it, or None. Equal ones are looked at once; most need no library."""
    found: dict[str, str | None] = {}
    hard: list[str] = []
    for gold in dict.fromkeys(golds):
        found[gold] = _at_sight(gold.strip())
        if found[gold] is None and literal(gold) is None and word(squeeze(gold)) is None:
            hard.append(gold)
    if hard:
        with IsolatedPool(processes, timeout_s, memory_mb) as pool:
            futures = {gold: pool.submit(f"{_LIBRARY}:parses", [gold]) for gold in hard}
            for gold, future in futures.items():
                try:
                    found[gold] = None if future.result() else f"not a mathematical expression: {gold!r}"
                except (CallTimeout, CallOutOfMemory) as error:
                    found[gold] = f"can't be parsed: {error}"
    return [found[gold] for gold in golds]


def check_gold(gold: str) -> str | None:
    """`check_golds` for one; each call that needs the library starts a process for it."""
    return check_golds([gold])[0]


def _at_sight(gold: str) -> str | None:
    if not gold:
        return "empty answer"
    return f"not an answer: {gold!r}" if is_no_answer(gold) else beyond_caps(gold) or None
