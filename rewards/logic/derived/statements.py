"""Sentences: syllogisms and family riddles."""

from __future__ import annotations

import itertools
import re

from lightning_cispo.rewards.logic.derived.errors import Unsettled


def wonderland(question: str) -> str:
    """aiw, where the question settles it: who is asked about is named as the first person's brother or friend."""
    found = re.match(r"(\w+) has .*?(\d+) sisters.*How many sisters does \1's brother have", question)
    found = found or re.match(r"(\w+) has .*?(\d+) female friends.*How many female friends does \w+, a male", question)
    if not found:
        raise Unsettled("who is asked about is not named before")
    return str(int(found[2]) + 1)


_QUANTIFIED = re.compile(r"(All|No|Some) (\w+) are (not )?(\w+)")


def _holds(kind: tuple[str, str, str, str], world: set[tuple[bool, ...]], names: list[str]) -> bool:
    """A world is the set of inhabited regions: which of the three terms its members have."""
    quantifier, one, negated, other = kind
    a, b = names.index(one), names.index(other)
    if quantifier == "All":
        return all(region[b] for region in world if region[a])
    if quantifier == "No":
        return not any(region[a] and region[b] for region in world)
    return any(region[a] and region[b] != bool(negated) for region in world)


def syllogism(question: str) -> str:
    """By all worlds of three terms, with and without empty terms; where the two differ the question has no answer."""
    *premises, conclusion = _QUANTIFIED.findall(question)
    names = sorted({name for kind in (*premises, conclusion) for name in (kind[1], kind[3])})
    regions = list(itertools.product((False, True), repeat=len(names)))
    follows = {True: True, False: True}  # by whether terms may be empty
    for inhabited in itertools.product((False, True), repeat=len(regions)):
        world = set(itertools.compress(regions, inhabited))
        if all(_holds(kind, world, names) for kind in premises) and not _holds(conclusion, world, names):
            follows[True] = False
            if all(any(region[i] for region in world) for i in range(len(names))):
                follows[False] = False
    if follows[True] != follows[False]:
        raise Unsettled("it hangs on whether a term may be empty")
    return "Yes" if follows[True] else "No"
