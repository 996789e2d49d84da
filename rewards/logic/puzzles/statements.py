"""Brackets, truth values, liars and alphabets: one answer each."""

from __future__ import annotations

import random
import string
from typing import Any

_PAIRS = {"(": ")", "[": "]", "{": "}", "<": ">"}
_NAMES = "Ada Ben Cleo Dan Eva Finn Gus Hana Ivo Jana Kai Lea Max Nora".split()


def make_dyck(rng: random.Random, difficulty: int) -> tuple[str, str, dict[str, Any]]:
    kinds = list(_PAIRS)[: 2 + difficulty // 4]
    text, open_ = "", ""
    for _ in range(6 + 4 * difficulty):
        if open_ and rng.random() < 0.45:
            text, open_ = text + _PAIRS[open_[-1]], open_[:-1]
        else:
            bracket = rng.choice(kinds)
            text, open_ = text + bracket, open_ + bracket
    if not open_:
        text, open_ = text + "(", "("
    answer = "".join(_PAIRS[bracket] for bracket in reversed(open_))
    question = (
        f"Close all brackets that are open, in the right order:\n\n{text}\n\nAnswer with the closing brackets alone."
    )
    return question, answer, {"answer": answer}


def check_text(answer: str, data: dict[str, Any]) -> bool:
    return answer.replace(" ", "").strip() == data["answer"]


def make_boolean(rng: random.Random, difficulty: int) -> tuple[str, str, dict[str, Any]]:
    count = 3 + difficulty // 2
    made = [_expression(rng, 1 + (difficulty + 1) // 3) for _ in range(count)]
    true = [letter for letter, (_, value) in zip(string.ascii_uppercase, made) if value]
    lines = "\n".join(f"{letter}: {text}" for letter, (text, _) in zip(string.ascii_uppercase, made))
    question = (
        f"Which of these are true?\n\n{lines}\n\nAnswer with their letters in alphabetical order, separated by blanks, "
        "or with none."
    )
    return question, " ".join(true) or "none", {"names": true}


def _expression(rng: random.Random, depth: int) -> tuple[str, bool]:
    if depth == 0:
        value = rng.random() < 0.5
        return str(value), value
    if rng.random() < 0.25:
        text, value = _expression(rng, depth - 1)
        return f"not ({text})", not value
    (left, a), (right, b) = _expression(rng, depth - 1), _expression(rng, depth - 1)
    if rng.random() < 0.5:
        return f"({left}) and ({right})", a and b
    return f"({left}) or ({right})", a or b


def make_web(rng: random.Random, difficulty: int) -> tuple[str, str, dict[str, Any]]:
    names = rng.sample(_NAMES, 3 + difficulty)
    honest = [rng.random() < 0.5 for _ in names]
    lines = [f"{names[0]} {'always tells the truth' if honest[0] else 'always lies'}."]
    for i in range(1, len(names)):
        # Each speaks of somebody whose case is settled, so there is one solution.
        about = rng.randrange(i)
        says = honest[about] == honest[i]
        lines.append(f"{names[i]} says that {names[about]} {'tells the truth' if says else 'lies'}.")
    first, *rest = lines
    rng.shuffle(rest)
    honest_names = sorted(name for name, truthful in zip(names, honest) if truthful)
    question = (
        "Everybody here either always tells the truth or always lies.\n\n"
        + "\n".join([first, *rest])
        + "\n\nWho tells "
        "the truth? Answer with their names in alphabetical order, separated by blanks, or with none."
    )
    return question, " ".join(honest_names) or "none", {"names": honest_names}


def check_names(answer: str, data: dict[str, Any]) -> bool:
    return answer.split() == (data["names"] or ["none"])


def make_words(rng: random.Random, difficulty: int) -> tuple[str, str, dict[str, Any]]:
    alphabet = rng.sample(string.ascii_lowercase, 26)
    words: set[str] = set()
    while len(words) < 4 + difficulty:
        start = rng.choice(sorted(words))[: rng.randint(1, 3)] if words and rng.random() < 0.5 else ""
        words.add(start + "".join(rng.choices(string.ascii_lowercase, k=rng.randint(2, 5))))
    listed = sorted(words)
    rng.shuffle(listed)
    ordered = sorted(words, key=lambda word: [alphabet.index(letter) for letter in word])
    question = (
        f"Sort these words by the alphabet {''.join(alphabet)}:\n\n{' '.join(listed)}\n\n"
        "Answer with the sorted words, separated by blanks."
    )
    return question, " ".join(ordered), {"words": ordered}


def check_words(answer: str, data: dict[str, Any]) -> bool:
    return answer.split() == data["words"]
