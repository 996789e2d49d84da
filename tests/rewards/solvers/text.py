"""Words, lists and statements."""

from __future__ import annotations

import itertools
import re
from fractions import Fraction

from reasoning_gym.data import read_data_file

from tests.rewards.solvers.arithmetic import prime_factors

LEGS = {
    "snake sea_slug jellyfish flatworm leech": 0,
    "chicken bird human duck": 2,
    "dog cat cow horse lion elephant giraffe tiger deer sheep": 4,
    "starfish": 5,
    "insect ant butterfly beetle bee wasp grasshopper cricket cockroach praying_mantis firefly": 6,
    "spider scorpion": 8,
    "crab lobster shrimp": 10,
    "woodlouse": 14,
}


def legs(question: str) -> str:
    known = {name.replace("_", " "): count for names, count in LEGS.items() for name in names.split()}
    animals = [animal.partition(" ") for animal in question.split("if you have ")[1].rstrip("?\n ").split(", ")]
    return str(sum(int(number) * known.get(name, known.get(name[:-1])) for number, _, name in animals))


def letters(question: str) -> str:
    found = re.search(r'letter "(.)" appear in the text: "(.*)"\?', question, re.DOTALL)
    assert found
    return str(found[2].lower().count(found[1].lower()))


def reversal(question: str) -> str:
    words = question.strip().split("list of words: ")[-1].split(", ")
    return ", ".join(reversed(words))


def sorting(question: str) -> str:
    listed = question.strip().split("comma-separated list: ")[-1].split(", ")
    return ", ".join(sorted(listed, reverse="in descending order" in question.split("Now, sort")[1]))


def numbers_sorted(question: str) -> str:
    found = re.search(r"in (ascending|descending) order: (.+)", question)
    assert found
    return str(sorted(found[2].split(", "), key=Fraction, reverse=found[1] == "descending"))


def emoji(question: str) -> str:
    line = next(line for line in question.split("\n") if line.startswith("Decode the following"))
    codes = [ord(char) for char in line.split(": ", 1)[1]][1:]
    if codes[0] == 0xFE0F:  # part of the emoji itself
        del codes[0]
    return bytes(code - 0xE0100 + 16 if code >= 0xE0100 else code - 0xFE00
                 for code in codes if 0xFE00 <= code <= 0xFE0F or 0xE0100 <= code <= 0xE01EF).decode()  # fmt: skip


def path_star(question: str) -> str:
    edges, ends = question.split("following task:\n")[1].split("/")
    start, goal = ends.split("=")[0].split()
    after: dict[str, list[str]] = {}
    for edge in edges.strip("|").split("|"):
        one, other = edge.split()
        after.setdefault(one, []).append(other)
    paths = [[start]]
    while paths and not any(path[-1] == goal for path in paths):
        paths = [[*path, node] for path in paths for node in after.get(path[-1], [])]
    (found,) = [path for path in paths if path[-1] == goal]
    return " ".join(found)


def liars(question: str) -> str:
    """self_reference: the number of consistent truth values."""
    a, b, c, d = (int(n) for n in re.findall(r"'(?:At least|At most|Exactly) (\d+) of", question))
    found = 0
    for truth in itertools.product((False, True), repeat=7):
        true, false = sum(truth), 7 - sum(truth)
        prime = true > 1 and len(prime_factors(true)) == 1
        composite = false > 1 and len(prime_factors(false)) > 1
        said = (true >= a, false <= b, true == c, false == d, truth[2] != truth[3], prime, composite)
        found += truth == said
    return str(found)


def caesar(question: str) -> str:
    """The one shift that gives words of the library's corpus only."""
    cipher = question.split("cipher text: ")[1].split(". Provide")[0]
    words = set(re.findall(r"[A-Z]+", read_data_file("in_the_year_2889.txt").upper()))
    found = set()
    for shift in range(26):
        clear = re.sub(r"[A-Z]", lambda m, s=shift: chr((ord(m[0]) - 65 - s) % 26 + 65), cipher)
        if set(clear.split()) <= words:
            found.add(clear)
    (only,) = found
    return only


def islanders(question: str) -> str:
    """knights_knaves: the one assignment under which the truthful speak the truth and the others do not."""
    listed = re.search(r"You meet \d+ inhabitants: (.+?)\. ", question)
    kinds = re.search(r"who is an? (\w+) and who is an? (\w+)\?", question)
    assert listed and kinds
    names = re.findall(r"[A-Z]\w+", listed[1])
    claims = _claims(question[listed.end() : question.index("So who is")], names)
    assert len(claims) == len(names)
    fitting = []
    for truth in itertools.product((True, False), repeat=len(names)):
        world = dict(zip(names, truth))
        if all(_true(claim, world, kinds[1]) == world[name] for name, claim in claims):
            fitting.append(", and ".join(f"{name} is a {kinds[1] if world[name] else kinds[2]}" for name in names))
    (only,) = fitting
    return only


_SAYINGS = (
    re.compile(r'"(?P<claim>[^"]+)" (?P<by>[^".]+)\.\s*'),  # "...," Ann declared.
    re.compile(r'(?P<by>[^"]+?)"(?P<claim>[^"]+)"\.?\s*'),  # Ann noted, "..."
    re.compile(r"(?P<by>\w+) [^.\"]*?\bthat (?P<claim>[^.\"]+)\.\s*"),  # Ann said that ...
)


def _claims(text: str, names: list[str]) -> list[tuple[str, str]]:
    """Who says what; the first sayings in the order above that begin the rest of the text."""
    found, text = [], text.strip()
    while text:
        said = _SAYINGS[0].match(text) if text.startswith('"') else _SAYINGS[2].match(text) or _SAYINGS[1].match(text)
        assert said, text
        (speaker,) = [name for name in names if re.search(rf"\b{name}\b", said["by"])]
        found.append((speaker, said["claim"]))
        text = text[said.end() :]
    return found


def _true(claim: str, world: dict[str, bool], truthful: str) -> bool:
    claim = claim.strip().rstrip(".,")
    if " if and only if " in claim:
        one, other = claim.split(" if and only if ")
        return _true(one, world, truthful) == _true(other, world, truthful)
    if found := re.fullmatch(r"[Ii]f (.+) then (.+)", claim):
        return not _true(found[1], world, truthful) or _true(found[2], world, truthful)
    for word, combine in ((" and ", all), (" or ", any)):
        if word in claim:
            return combine(_true(part, world, truthful) for part in claim.split(word))
    found = re.fullmatch(r"(\w+) is (not )?an? (\w+)", claim)
    assert found, claim
    return ((found[3] == truthful) == world[found[1]]) != bool(found[2])
