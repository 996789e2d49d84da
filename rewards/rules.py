"""Score a response's form: each rule gives a part of the reward, from text or token counts alone, in linear time."""

from __future__ import annotations

import unicodedata

from lightning_cispo.rewards.answer import final_text
from lightning_cispo.rewards.calls import SYNTAXES
from lightning_cispo.rewards.mathematics.answer import closed_box, only_box


def box_score(text: str) -> float:
    """1.0 for exactly one `\\boxed{` after the thinking, with its brace closed, else 0.0. `\\{` is a sign, no brace."""
    final = final_text(text) or ""
    opening = only_box(final)
    return 0.0 if opening is None or closed_box(final, opening) is None else 1.0


def tools_score(text: str) -> float:
    """Return 1.0 if all tool calls after the thinking are in MiniMax-M1's syntax, or there are none; else 0.0.

    That is one block, one JSON object `{"name": text, "arguments": object}` a line, and no tag of it elsewhere.
    """
    return float(SYNTAXES["minimax_m1"].parse(text).sound)


def language_score(text: str, script: str) -> float:
    """Return the share of letters that belong to a script; 1.0 if there are no letters.

    A script is the first word of its letters' Unicode names: latin, cjk, cyrillic ... The thinking counts too: that is
    where languages get mixed.
    """
    letters = [character for character in text if character.isalpha()]
    prefix = script.upper()
    return sum(unicodedata.name(c, "").startswith(prefix) for c in letters) / len(letters) if letters else 1.0


def check_language(script: str) -> str | None:
    """Return what is wrong with a script's name, or None: some letter's Unicode name must begin with it."""
    prefix = script.upper()
    if any(unicodedata.name(chr(code), "").startswith(prefix) for code in range(0x41, 0x20000) if chr(code).isalpha()):
        return None
    return "no letter's Unicode name begins so; must be a script such as latin, cjk, cyrillic, arabic or devanagari"


def length_score(tokens: int, least: int, most: int) -> float:
    """Return 0.0 from `least` to `most` tokens (0: no upper bound), else -1.0."""
    return -1.0 if tokens < least or 0 < most < tokens else 0.0
