"""Rules on a response's form: each gives a part of the reward, from text or token counts alone, in linear time."""

from __future__ import annotations

import json
import unicodedata

from lightning_cispo.rewards.answer import final_text

_TOOLS_OPEN, _TOOLS_CLOSE = "<tool_calls>", "</tool_calls>"


def box_score(text: str) -> float:
    """1.0 for exactly one `\\boxed{` after the thinking, with its brace closed, else 0.0."""
    final = final_text(text) or ""
    if final.count("\\boxed{") != 1:
        return 0.0
    depth = 0
    for character in final.partition("\\boxed")[2]:
        depth += (character == "{") - (character == "}")
        if depth == 0:
            return 1.0
    return 0.0


def tools_score(text: str) -> float:
    """1.0 if all tool calls after the thinking are in MiniMax-M1's syntax, or there are none; else 0.0.

    That is one block, one JSON object `{"name": text, "arguments": object}` a line.
    """
    final = final_text(text) or ""
    if _TOOLS_OPEN not in final and _TOOLS_CLOSE not in final:
        return 1.0
    if final.count(_TOOLS_OPEN) != 1 or final.count(_TOOLS_CLOSE) != 1:
        return 0.0
    calls = final.partition(_TOOLS_OPEN)[2].partition(_TOOLS_CLOSE)[0].strip().splitlines()
    return float(bool(calls) and all(map(_is_call, calls)))


def _is_call(line: str) -> bool:
    try:
        call = json.loads(line)
    except (RecursionError, ValueError):
        return False
    return (
        isinstance(call, dict)
        and call.keys() == {"name", "arguments"}
        and isinstance(call["name"], str)
        and isinstance(call["arguments"], dict)
    )


def language_score(text: str, script: str) -> float:
    """The share of letters that belong to a script ("latin", "cjk", "cyrillic" ...: the first word of their Unicode
    names). 1.0 if there are no letters. The thinking counts too: that is where languages get mixed."""
    letters = [character for character in text if character.isalpha()]
    prefix = script.upper()
    return sum(unicodedata.name(c, "").startswith(prefix) for c in letters) / len(letters) if letters else 1.0


def length_score(tokens: int, least: int, most: int) -> float:
    """0.0 from `least` to `most` tokens (0: no upper bound), else -1.0."""
    return -1.0 if tokens < least or 0 < most < tokens else 0.0
