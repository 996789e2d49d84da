"""Pairs of gold and answer, as `rewards.math` states its policy: what is equal, and what is not."""

from __future__ import annotations

from pathlib import Path

from lightning_cispo.rewards.judgement import Decision
from lightning_cispo.rewards.math import MathOptions, judge
from lightning_cispo.rewards.mathematics.verify import equivalent

KINDS = Path(__file__).with_name("math_kinds.txt")

EQUAL = [
    ("0", "-0"), ("0", "0.000"), ("-5", "- 5"), ("-5", r"\left(-5\right)"), ("7", "007"), ("1000000", "1,000,000"),
    ("1000000", "10^6"), ("0.001", "10^{-3}"), ("0.25", r"\frac{1}{4}"), ("2.50", "2.5"),
    (r"\frac{-3}{4}", r"-\frac34"), (r"\frac{3}{-4}", "-0.75"), (r"\tfrac{2}{6}", r"\frac{1}{3}"),
    ("3/4", r"\frac{3}{4}"), (r"2\frac{1}{2}", r"\frac{5}{2}"), ("12", r"12\text{ miles per hour}"),
    ("12", r"12\,\text{m}"), ("12", r"12~\mathrm{kg}"), ("12", "12 meters"), ("12.5", r"12.5\%"),
    (r"\$12.50", "12.5"), ("45", r"45^{\circ}"), (r"45^\circ", r"45\text{ degrees}"), (r"\sqrt{8}", r"2\sqrt{2}"),
    (r"\sqrt{50}", r"5\sqrt2"), (r"\sqrt[3]{8}", "2"), (r"\frac{\sqrt{2}}{2}", r"\frac{1}{\sqrt{2}}"),
    (r"\sqrt{3+2\sqrt{2}}", r"1+\sqrt{2}"), ("2^{-1}", r"\frac12"), ("e^{0}", "1"), (r"\log_2 8", "3"),
    (r"\sin(\pi/6)", r"\frac12"), (r"\cos 0", "1"), (r"\frac{\pi}{4}", r"0.25\pi"), (r"\pi r^2", r"r^2\pi"),
    ("x^2-1", "(x-1)(x+1)"), ("a+b", "b+a"), (r"\frac{x}{2}", "0.5x"), (r"\frac{x^2-1}{x-1}", "x+1"),
    ("y=x+1", "y = 1+x"), (r"x=\frac12", "0.5"), ("(1,2)", r"\left(1,2\right)"),
    ("(0.5,2)", r"\left(\frac{1}{2}, 2\right)"), ("(1,2,3)", "(1, 2, 3)"), (r"\{1,2,3\}", r"\{3,2,1\}"),
    ("1,2,3", "3, 2, 1"), ("-1, 1", r"\pm 1"), ("x=1, x=2", "1, 2"), ("[0,1]", r"\left[0, 1\right]"),
    (r"[0,\infty)", r"\left[0,\infty\right)"), (r"(-\infty,2)", r"(-\infty, 2)"),
    (r"(1,2)\cup(3,4)", r"(3,4) \cup (1,2)"), (r"\text{Monday}", "monday"), (r"\text{yes}", r"\text{Yes}"),
    (r"\text{(A)}", "A"), ("B", r"\textbf{(B)}"), ("D", r"\text{D}"), ("3+4i", "4i+3"),
    (r"\begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix}", r"\begin{bmatrix} 1 & 2 \\ 3 & 4 \end{bmatrix}"),
    (r"\begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix}", r"\begin{pmatrix}1&2\\3&4\end{pmatrix}"),
    ("1011_2", "1011_{2}"), ("5!", "120"), (r"\binom{5}{2}", "10"), (r"\frac{7}{3}", r"2\frac13"), ("3:4", "3 : 4"),
    (r"\frac{1}{2}+\frac{1}{3}", r"\frac{5}{6}"), (r"6\cdot 10^{3}", "6000"), (r"6 \times 10^3", "6,000"),
    (r"\frac{100}{1}", "100"), ("|x|", r"\left|x\right|"), ("3x^2", r"3 \cdot x^2"), (r"\alpha+1", r"1+\alpha"),
    ("1500", "1.5e3"),
]  # fmt: skip

DIFFERENT = [
    ("0", "1"), ("0", ""), ("5", "50"), ("5", "0.5"), ("5", "5.0001"), ("5", "4.9999999"), ("1000", "1,00"),
    ("1000", "1.000"), ("0.1", "0.10001"), (r"\frac12", r"\frac21"), (r"\frac23", "0.67"), (r"\frac23", "0.666667"),
    (r"\sqrt{2}", r"\frac{99}{70}"), (r"\sqrt{2}", r"-\sqrt{2}"), ("e", "2.718281828"), (r"\pi", r"\frac{22}{7}"),
    ("10^{100}", "10^{100}+1"), ("100000000000000000001", "100000000000000000000"), (r"\frac{1}{1000!}", "0"),
    ("x+1", "x-1"), ("x", "y"), ("2x", "x^2"), ("y=x+1", "y=x+2"), ("(1,2)", "(1,3)"), ("(1,2)", "[1,2]"),
    ("(1,2)", "(1,2,3)"), (r"\{1,2\}", r"\{1,2,3\}"), (r"\{1,2\}", r"\{1\}"), ("1,2,3", "1,2"), ("[0,1]", "(0,1)"),
    ("[0,1]", "[0,1)"), ("[0,1]", "[0,2]"), (r"(-\infty,2)", r"(-\infty,2]"), (r"(1,2)\cup(3,4)", "(1,2)"),
    ("yes", "no"), (r"\text{Monday}", r"\text{Tuesday}"), ("A", "B"), (r"\text{(A)}", "(B)"), ("3+4i", "3-4i"),
    ("i", "1"), (r"\begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix}", r"\begin{pmatrix} 1 & 3 \\ 2 & 4 \end{pmatrix}"),
    (r"\begin{pmatrix} 1 & 2 \end{pmatrix}", r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}"), ("1011_2", "1011_3"),
    ("3:4", "4:3"), ("3:4", "0.75"), (r"\pm 1", "1"), ("1", r"\pm 1"), (r"45\%", "4.5"), ("x>2", "x<2"),
    (r"x \ge 2", "x > 2"), ("5!", "5"), ("12", r"12\text{ million}"), ("12", r"12\text{ dozen}"),
    (r"\infty", "10^{100}"), ("5", r"5\cdot"), ("5", r"\frac{5}{}"), ("5", r"\text{five}"), ("5", "V"), ("6", "3!!"),
    ("5", "5 = 5"), ("5", r"5 \Rightarrow 6"), ("5", "{5,6}"), ("5", "5/6"), ("5", r"\left\{5,6,7\right\}"),
    ("5", r"\boxed{5}, \boxed{6}"), ("5", r"x \in \{5\}, 6"), ("5", r"\emptyset"), ("5", r"\overline{5}6"),
 ("5", "1+1+1+1"), ("5", r"\lim_{x\to 5} x + 1"), ("5", r"\input{/etc/passwd}"),
    ("5", "__import__('os').system('true')"), ("5", "5 million"), ("5", r"5\;6"),
]  # fmt: skip


def kinds() -> list[tuple[str, str, str, bool]]:
    """The table in math_kinds.txt, as (kind, gold, answer, expected)."""
    found, kind, gold = [], "", ""
    for line in KINDS.read_text().splitlines()[3:]:
        if line.startswith("== "):
            kind = line[3:]
        elif line[:4] in ("  + ", "  - "):
            found += [(kind, gold, answer, line[2] == "+") for answer in line[4:].split(" ;; ")]
        elif line:
            gold = line
    return found


def verdict(gold: str, answer: str, evaluated: bool = True) -> bool:
    """What the verifier says of a boxed answer, computed in this process."""
    judgement = judge(gold, f"\\boxed{{{answer}}}", MathOptions(evaluated))
    return judgement.correct if isinstance(judgement, Decision) else equivalent(*judgement.args)["correct"]


def math_verify_alone(gold: str, answer: str) -> bool:
    """What math-verify says of it, as its documentation calls it."""
    from math_verify import parse, verify

    return bool(verify(parse(f"${gold}$"), parse(f"\\boxed{{{answer}}}")))


if __name__ == "__main__":  # how often each agrees with the table
    table = kinds()
    for judge_name, decide in (("rewards.math", verdict), ("math-verify alone", math_verify_alone)):
        verdicts = [(decide(gold, answer), expected) for _, gold, answer, expected in table]
        right = sum(found == expected for found, expected in verdicts)
        false_positives = sum(found and not expected for found, expected in verdicts)
        print(f"{judge_name}: {right} of {len(table)}, {false_positives} false positives")
