"""Answers that are words, and letters of a multiple choice."""

from __future__ import annotations

import re

# Words of three letters or fewer that are no product of variables.
_SHORT = frozenset("yes no odd all any one two six ten red sun mon tue wed thu fri sat".split())
_TEXT = re.compile(r"\\(?:text|mathrm|mathbf)\{([^{}]*)\}")
_WORDS = re.compile(r"[^\W\d_]+(?:[ '-][^\W\d_]+)*")
_LABEL = re.compile(
    r"(?:\\(?:text|mathrm|mathbf)\{ ?(?:\(([A-J])\)|([A-J])[.:)])(?: \}|\}(?= ))|\(([A-J])\)(?= )|([A-J])[.:)](?= ))"
    r"(?! *(?:[+*/^!,;=<>|]|- |\\(?:text|land|lor|cdot|times|pm|cup|cap|le|ge|ne|in)(?![A-Za-z]))) *(.+)"
)
_CHOICE = re.compile(r"\\(?:text|mathrm|mathbf)\{ ?\(?([A-J])\)?[.:]? ?\}|\(?([A-J])\)?")
# What programs print for values that are none, and quoted or structured data.
_NO_ANSWER = re.compile(
    r"[-+]?(?:None|True|False|nan|NaN|NAN|NaT|null|NULL|undefined|inf|Inf|N/A|n/a|<NA>)|[bruf]{0,2}(['\"]).*\1|"
    r"[\[{(]\s*[bru]?['\"].*|<.*>|(?:array|tensor|Decimal|Fraction|np\.\w+)\(.*",
    re.DOTALL,
)


def word(text: str, any_length: bool = False) -> str | None:
    """The words that a squeezed text is, in lower case: inside `\\text{}`, or bare from four letters on.

    `any_length` takes bare ones of any length. A single letter in parentheses is a choice: its letter.
    """
    inside = _TEXT.fullmatch(text)
    bare = (inside[1] if inside else text).strip().strip("().").strip().lower()
    bare = re.sub(r"\s*,\s*", ", ", " ".join(bare.split()))
    if inside and re.search(r"[^\W\d_]", bare):
        return bare
    if any_length and re.search(r"[^\W\d_]", bare) and not re.search(r"[\\^_{}=+*/<>]", bare):
        return bare
    if not _WORDS.fullmatch(bare):
        return None
    letters = len(bare) >= 4 or bare in _SHORT
    return bare if letters or re.fullmatch(r"\([A-Z]\)", text) else None


def choice(text: str) -> tuple[str, str]:
    """Return the letter of a choice in a squeezed text, and what follows it: `\\text{(A)} 5` is A and 5.

    A blank parts the two, and what follows is an answer of its own: `(A)(B)` and `(A) + 1` have no label.
    """
    if whole := _CHOICE.fullmatch(text):
        return whole[1] or whole[2], ""
    label = _LABEL.fullmatch(text)
    if label and not choice(label[5].strip())[0]:
        return label[1] or label[2] or label[3] or label[4], label[5].strip()
    return "", text


def is_no_answer(text: str) -> bool:
    """Whether a gold is what a program printed for a missing or non-numeric value, and no mathematics."""
    return bool(_NO_ANSWER.fullmatch(text.strip()))
