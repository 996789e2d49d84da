"""Cryptarithms, and the game of making a number out of others. Expressions are read by hand, never run."""

from __future__ import annotations

import random
import re
import string
from fractions import Fraction
from typing import Any

MAX_EXPRESSION_CHARS = 200


def make_cryptarithm(rng: random.Random, difficulty: int) -> tuple[str, str, dict[str, Any]]:
    digits = 2 + difficulty // 3
    addends = [rng.randrange(10 ** (digits - 1), 10**digits) for _ in range(2 + (difficulty > 6))]
    letters = rng.sample(string.ascii_uppercase, 10)
    words = ["".join(letters[int(d)] for d in str(number)) for number in (*addends, sum(addends))]
    used = sorted(set("".join(words)))
    question = (
        f"Each letter stands for one digit, different letters for different digits, and no number begins with 0:\n\n"
        f"{' + '.join(words[:-1])} = {words[-1]}\n\nAnswer with one digit for each letter, as in A=1,B=2."
    )
    answer = ",".join(f"{letter}={letters.index(letter)}" for letter in used)
    return question, answer, {"words": words}


def check_cryptarithm(answer: str, data: dict[str, Any]) -> bool:
    text = answer.replace(" ", "")
    if not re.fullmatch(r"[A-Z]=\d(,[A-Z]=\d)*", text, re.ASCII):
        return False
    pairs = [(pair[0], pair[2]) for pair in text.split(",")]
    values = dict(pairs)
    words = data["words"]
    if len(pairs) != len(values) or set(values) != set("".join(words)) or len(set(values.values())) != len(values):
        return False
    numbers = ["".join(values[letter] for letter in word) for word in words]
    return not any(n.startswith("0") for n in numbers) and sum(map(int, numbers[:-1])) == int(numbers[-1])


def make_game(rng: random.Random, difficulty: int) -> tuple[str, str, dict[str, Any]]:
    """By combining numbers until one is left, so that there is a solution."""
    while True:
        numbers = [rng.randint(1, 6 + difficulty) for _ in range(3 + (difficulty + 2) // 4)]
        terms = [(Fraction(number), str(number)) for number in numbers]
        while len(terms) > 1:
            (a, left), (b, right) = (terms.pop(rng.randrange(len(terms))) for _ in range(2))
            sign = rng.choice("+-*/" if b and (a / b).denominator == 1 else "+-*")
            terms.append((_apply(sign, a, b), f"({left}{sign}{right})"))
        value, text = terms[0]
        if value.denominator == 1 and 10 <= value <= 100:
            break
    question = (
        f"Make {value} out of the numbers {', '.join(map(str, numbers))}, each used exactly once, with + - * / and "
        "parentheses. Answer with the expression alone."
    )
    return question, text[1:-1] if text.startswith("(") else text, {"numbers": numbers, "target": int(value)}


def check_game(answer: str, data: dict[str, Any]) -> bool:
    text = answer.strip()
    if len(text) > MAX_EXPRESSION_CHARS or not re.fullmatch(r"[\d+\-*/() ]+", text, re.ASCII):
        return False
    tokens = re.findall(r"\d+|[+\-*/()]", text)
    if sorted(int(token) for token in tokens if token.isdigit()) != sorted(data["numbers"]):
        return False
    try:
        value, position = _sum(tokens, 0)
    except (IndexError, ValueError, ZeroDivisionError):
        return False
    return position == len(tokens) and value == data["target"]


def _sum(tokens: list[str], at: int) -> tuple[Fraction, int]:
    value, at = _product(tokens, at)
    while at < len(tokens) and tokens[at] in "+-":
        other, after = _product(tokens, at + 1)
        value, at = _apply(tokens[at], value, other), after
    return value, at


def _product(tokens: list[str], at: int) -> tuple[Fraction, int]:
    value, at = _factor(tokens, at)
    while at < len(tokens) and tokens[at] in "*/":
        other, after = _factor(tokens, at + 1)
        value, at = _apply(tokens[at], value, other), after
    return value, at


def _factor(tokens: list[str], at: int) -> tuple[Fraction, int]:
    if tokens[at] == "(":
        value, at = _sum(tokens, at + 1)
        if tokens[at] != ")":
            raise ValueError("a parenthesis isn't closed")
        return value, at + 1
    return Fraction(int(tokens[at])), at + 1  # ValueError for a sign: there is no unary minus


def _apply(sign: str, a: Fraction, b: Fraction) -> Fraction:
    if sign == "+":
        return a + b
    if sign == "-":
        return a - b
    return a * b if sign == "*" else a / b
