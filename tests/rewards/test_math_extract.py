"""Where the final answer is in a response, and what finding it costs."""

from __future__ import annotations

import time

import pytest

from lightning_cispo.rewards.judgement import Decision
from lightning_cispo.rewards.math import extract, judge
from lightning_cispo.rewards.mathematics.answer import MAX_ANSWER_CHARS
from lightning_cispo.rewards.rules import box_score


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"\boxed {5}", "5"),
        (r"\boxed{ 5 }", "5"),
        (r"\boxed 5", "5"),
        (r"\boxed 42.", "42"),
        (r"$\boxed -3$", "-3"),
        (r"\boxed x", "x"),
        (r"\boxed 5x", None),
        (r"\boxed 5 6", "5"),
        (r"\boxed{5} as asked in \boxed", "5"),
        (r"\boxed{5}, given in \boxed{} form", None),
        (r"\boxed{5}, which is in \boxed.", "5"),
        (r"I use \boxed" + "\nAnswer: 7", "7"),
        (r"\boxed{2\}", None),
        (r"\boxed{\left\{ 1 \right.}", r"\left\{ 1 \right."),
        (r"\boxed{a\\}", r"a\\"),
        ("**Answer**: 73", "73"),
        ("**Answer:** 73", "73"),
        ("__Answer__: 73", "73"),
        ("### Final answer: 73", "73"),
        ("**Final Answer:** $x^2$", "$x^2$"),
        ("- Answer: 73", "73"),
        ("Answer = 73.", "73"),
        ("The answer is **73**.", "73"),
        ("#### 73", "73"),
        ("**73**", "73"),
        ("The answer is clear:\n73", "73"),
        ("Answer: " + "1" * 601, None),
        (r"\boxed{" + "1" * 499 + "}", "1" * 499),
        (r"\boxed{" + "1" * 3000, "1" * 1999),  # too long, whether it is closed or not
    ],
)
def test_extract(text: str, answer: str | None) -> None:
    assert extract(text) == answer


@pytest.mark.parametrize(
    ("text", "score"),
    [
        (r"\boxed{2}", 1.0),
        (r"\boxed {2}", 1.0),
        (r"\boxed{2\}", 0.0),
        (r"\boxed{\left\{ 1 \right.}", 1.0),
        (r"\boxed{\{1\}}", 1.0),
        (r"\boxed{\{1}", 1.0),
        (r"\boxed{2} \boxed{3}", 0.0),
        (r"\boxed{2} as asked in \boxed", 1.0),
        (r"\boxed 2", 0.0),
        (r"\boxed{2", 0.0),
        ("2", 0.0),
    ],
)
def test_box_score_counts_closed_boxes(text: str, score: float) -> None:
    assert box_score(text) == score


FRAGMENTS = [
    "the ", "1) ", "answer: ", "so the answer is ", "the final answer ", "#### ", "** ", r"\boxed", r"\boxed ",
    r"\boxed{", "\\boxed\n", "{", "}", r"\{", r"\}", "$", r"\$", "1,", "1 ", "1.", "1/", "-", "+", "=", "x=",
    "5 cm ", "5 apples ", r"\frac", r"\frac1", r"\frac{1}", r"\sqrt", r"\sqrt{", "√", "²", "¾", r"\pm", r"\text{",
    r"\text{a} ", r"\left(", r"\right)", r"\begin{pmatrix}", "&", "\\\\", r"\cup", r"\in", "<", ">", r"\le ", ":",
    ";", ", ", "and ", " or ", "(", ")", "[", "]", "1)", "(1,", "10^", "^{", "_{", "_1", "e5", "1e5", "%", r"\%",
    "percent ", "per ", "square ", r"\circ", r"^\circ ", "°", r"\overline{3}", "0.", ".", "…", r"\,", r"\!", r"\ ",
    "~", r"\quad", "\t", "\n", " ", "\u00a0", "million ", "(A) ", "A. ", r"\textbf{(A)} ", r"\mathrm{e}",
    r"\operatorname{sin}", "sin ", r"\lg", r"\mathbb{R}", r"\emptyset", r"\infty", "i", "π", "∞", "≤", "∈", "'",
    "\"", "`", "#", "*", "__", "thus ", "therefore, ", "hence ", "final ", "answer ", "is ", "my ", "</think>",
    "<think>", "a", "ab ", "1a", "a1", r"\a", r"\1", r"\\a", "0", "00", "9", "1.1", "1,111", "1,1", "1 1/2 ",
    r"2\frac12", "x^2", "x+", "(x+1)", "x_", r"\approx ", r"\ne ", r"\lor ", r"\land ", r"\mid", r"\{x", r"\}x",
    r"\binom", "!", r"\lfloor", r"\rfloor", "so the answer is answer: ", "answer is: **", "  5", "5  ",
    r"\text{ and } ", r"\text{cm}^2", "{{}}", "$1$", r"\(1\)", r"\[1\]", r"\boxed{1}", r"\boxed{1} ", r"\boxed 1 ",
    "Answer:\n", "####\n", "---", "```\n", "<br>", "1:2", "x:y", "1<2", r"\frac{1}{2}+", "alpha 1, ", "beta 1, ",
    "x^{ 1, ", "y_{ 1, ", r"\sin 1, ", r"\log_ 1, ", r"\frac{1} 1, ", "(1 1, ", "[1 1, ", "|1 1, ", r"\{1 1, ",
    "1: 1, ", "1= 1, ", "-1 1, ", r"\text{a} 1, ", "1+", "1-", "1*", "1^", "1_", "1!", "1%", "1'", "2+", "2-",
    "2*", "2/", "2^", "2_", "2!", "2%", "2'", "x²", "5€", "€5", r"\$5 ", r"5\%", r"5\text{ m}", "a b c ",
    "3 sin x ", r"2 \times 10^{3} ", "1.5e3 ", r"\dfrac12", r"\tfrac",
]  # fmt: skip


def cpu_seconds(gold: str, text: str) -> float:
    """The thread's own time; the least of three where the first is long, since a collection may have fallen into it."""
    found: list[float] = []
    while not found or (min(found) > 0.01 and len(found) < 3):
        began = time.thread_time()
        assert isinstance(judge(gold, text), Decision) or len(extract(text) or "") <= MAX_ANSWER_CHARS
        found.append(time.thread_time() - began)
    return min(found)


@pytest.mark.parametrize("frame", ["{}", "Answer: {}", "\\boxed{{{}", "\\boxed{{{}}}", "{} \\boxed"])
def test_no_repeated_fragment_costs_more_than_fifty_milliseconds(frame: str) -> None:
    """At 100,000 characters, and cut to what a box may hold. A quadratic reading takes minutes at that length; what is
    allowed is five times what the slowest takes."""
    assert len(FRAGMENTS) >= 200
    for fragment in FRAGMENTS:
        for length in (100_000, MAX_ANSWER_CHARS - 1):
            text = frame.format((fragment * (length // len(fragment) + 1))[:length])
            assert cpu_seconds("5", text) < 0.05, f"{fragment!r} at {length}"


def test_only_a_line_s_bounded_part_reaches_regular_expressions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Work is counted in characters: none of a long last line is looked at beyond its length."""
    from lightning_cispo.rewards.mathematics import answer

    seen: list[int] = []
    original = answer.is_number
    monkeypatch.setattr(answer, "is_number", lambda text: (seen.append(len(text)), original(text))[1])
    for text in ("the " * 100_000 + "1)", "x\n" * 100_000 + "the 1", "1" * 300_000):
        extract(text)
    assert seen == [5]
