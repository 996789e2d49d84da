"""Rewriting and simulation: rules as the question states them, one step after another."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable

from lightning_cispo.rewards.logic.derived.boards import Grid, rows, shown


def ab(question: str) -> str:
    tokens = question.split("following program:\n\n")[1].split("\n\n")[0].split()
    swaps = {("A#", "#A"): [], ("A#", "#B"): ["#B", "A#"], ("B#", "#A"): ["#A", "B#"], ("B#", "#B"): []}
    while True:
        place = next((i for i in range(len(tokens) - 1) if (tokens[i], tokens[i + 1]) in swaps), None)
        if place is None:
            return " ".join(tokens)
        tokens[place : place + 2] = swaps[tokens[place], tokens[place + 1]]


def alternation(question: str) -> str:
    bits = re.findall(r"\b[01]+\b", question)[-1]
    found = []
    for first in "01":
        goal = "".join("01"[(i + int(first)) % 2] for i in range(len(bits)))
        if sorted(goal) == sorted(bits):
            found.append(sum(a != b for a, b in zip(goal, bits)) // 2)
    return str(min(found, default=-1))


def circuit(question: str) -> str:
    """The gates' inputs are read off the drawing: every line that enters a gate is followed back to its letter."""
    picture = question.split("\n\nLegend")[0].split("\n\n", 1)[1].split("\n")
    width = max(map(len, picture))
    picture = [line.ljust(width) for line in picture]
    values = {name: int(bit) for name, bit in re.findall(r"^  ([A-Z]) = ([01])$", question, re.MULTILINE)}
    names = {legend: name for legend, name in re.findall(r"^(\S\S): (\w+)$", question, re.MULTILINE)}
    symbols = {symbol[0]: name for symbol, name in names.items() if name != "Negate"}
    pieces: dict[int, list[int]] = {}
    out = next(r for r, line in enumerate(picture) if "OUT" in line)
    last = picture[out].index("─── OUT") - 2
    gates = _gates(picture, symbols, last)
    for top, bottom, kind, column in gates:
        inputs = [_letter(picture, r, column - 1, values) for r in range(top, bottom + 1)]
        pieces[top] = [_gate(kind, inputs)]
    final = symbols[picture[out][last]]
    return str(_gate(final, [bit for piece in pieces.values() for bit in piece]))


def _gates(picture: list[str], symbols: dict[str, str], last: int) -> list[tuple[int, int, str, int]]:
    found: list[tuple[int, int, str, int]] = []
    for r, line in enumerate(picture):
        place = next((c for c in range(last - 1) if line[c] in symbols and line[c + 1] == line[c]), None)
        if place is None:
            continue
        if found and found[-1][1] == r - 1 and found[-1][2] == symbols[line[place]]:
            found[-1] = (found[-1][0], r, found[-1][2], place)
        else:
            found.append((r, r, symbols[line[place]], place))
    return found


def _letter(picture: list[str], row: int, column: int, values: dict[str, int]) -> int:
    line, negated, c = picture[row], False, column
    while line[c] not in "└├":
        negated ^= line[c] == "o"
        c -= 1
    r = row - 1
    while picture[r][c] not in "┐":
        r -= 1
    return values[picture[r][0]] ^ negated


def _gate(kind: str, bits: list[int]) -> int:
    gates: dict[str, Callable[[list[int]], int]] = {
        "AND": lambda b: int(all(b)),
        "NAND": lambda b: int(not all(b)),
        "OR": lambda b: int(any(b)),
        "NOR": lambda b: int(not any(b)),
        "XOR": lambda b: sum(b) % 2,
        "XNOR": lambda b: 1 - sum(b) % 2,
    }
    return gates[kind](bits)


def courses(question: str) -> str:
    count = int(re.findall(r"total of (\d+) courses", question)[0])
    before = [(int(a), int(b)) for a, b in re.findall(r"\((\d+), (\d+)\)", question)]
    taken: set[int] = set()
    while True:
        free = {c for c in range(count) if c not in taken and all(b in taken for a, b in before if a == c)}
        if not free:
            return str(len(taken) == count)
        taken |= free


def matrix(question: str) -> str:
    grid = rows(question.split("Perform the following")[0], r"^\d+(?: \d+)* *$")
    for line in re.findall(r"^- (.+)$", question, re.MULTILINE):
        grid = _transformed(grid, line, [int(n) for n in re.findall(r"\d+", line)])
    return shown(grid)


def _transformed(grid: Grid, line: str, n: list[int]) -> Grid:
    if line.startswith("Rotate"):
        for _ in range(n[0] // 90 % 4):
            grid = [list(row) for row in zip(*reversed(grid))]
    elif line.startswith("Horizontally"):
        grid = grid[::-1]
    elif line.startswith("Vertically"):
        grid = [row[::-1] for row in grid]
    elif "counterdiagonal" in line:
        grid = [[grid[-1 - i][-1 - j] for i in range(len(grid))] for j in range(len(grid[0]))]
    elif "diagonal" in line:
        grid = [[grid[i][j] for i in range(len(grid))] for j in range(len(grid[0]))]
    elif line.startswith("Map"):
        grid = [[str(n[1]) if cell == str(n[0]) else cell for cell in row] for row in grid]
    elif line.startswith("Set all"):
        grid = [["0" if int(cell) % n[0] == 0 else cell for cell in row] for row in grid]
    elif line.startswith("Crop"):
        grid = [row[n[2] - 1 : n[3]] for row in grid[n[0] - 1 : n[1]]]
    elif "row" in line:
        grid = [row for i, row in enumerate(grid, 1) if i % n[0]]
    elif "column" in line:
        grid = [[cell for j, cell in enumerate(row, 1) if j % n[0]] for row in grid]
    else:
        assert line.startswith("Identity"), line
    return grid


def rewriting(question: str) -> str:
    rules = re.findall(r"^\d+\. (If the string .+)$", question, re.MULTILINE)
    states = [question.strip().split("\n")[-1]]
    while True:
        changed = next((new for rule in rules if (new := _rewritten(rule, states[-1])) is not None), None)
        if changed is None or changed in states:
            return states[-1]
        states.append(changed)


def _rewritten(rule: str, s: str) -> str | None:
    """None where the rule does not apply."""
    if "even number of 'b's" in rule:
        return s + "ab" if s.count("b") and s.count("b") % 2 == 0 else None
    if "length is greater than 15" in rule:
        return s[: len(s) // 2] + s[len(s) // 2 + 1 :] if len(s) > 15 else None
    a, *b = re.findall(r"'(\w+)'", rule)
    if "not at the start" in rule:
        place = s.find(a, 1)
        return None if place < 0 else s[:place] + s[place + len(a) :]
    if "contains" in rule:
        return s.replace(a, b[-1] if b else "", 1) if a in s else None
    rest = re.split(r"'\w+', ", rule, maxsplit=1)[1]
    if "prefix" in rule or "starts with" in rule:
        return _at_start(s, a, b, rest) if s.startswith(a) else None
    return _at_end(s, a, b, rest) if s.endswith(a) else None


def _at_start(s: str, a: str, b: list[str], rest: str) -> str:
    if "remove the second character" in rest:
        return s[0] + s[2:]
    if "remove the first character" in rest:
        return s[1:]
    tail = s[len(a) :]
    if "append" in rest and "replace" not in rest:
        return tail + b[-1]
    if "replace" not in rest:
        return tail
    if "delete the last character" in rest:
        tail = tail[:-1]
    return b[0] + tail + (b[1] if "append" in rest else "")


def _at_end(s: str, a: str, b: list[str], rest: str) -> str:
    if "remove the last character" in rest:
        return s[:-1]
    head = s[: -len(a)]
    if "replace" not in rest:
        return head
    return (b[1] if "prepend" in rest else "") + head + b[0]


def machines(question: str) -> str:
    """string_splitting: A B C X Y Z."""
    rules = [((1, 0, 0, 0, 0, 0), (0, 0, 0, 2, 1, 0)), ((0, 2, 0, 0, 0, 0), (0, 0, 0, 1, 0, 0)),
             ((0, 0, 2, 0, 0, 0), (0, 0, 0, 0, 1, 0)), ((0, 1, 1, 0, 0, 0), (1, 0, 0, 0, 0, 0)),
             ((0, 0, 0, 1, 1, 0), (0, 0, 0, 0, 0, 1))]  # fmt: skip
    start = re.findall(r"(\d+) machine", question.split("Now, you have")[1])
    return _reacted([*map(int, start), 0, 0, 0], rules)


def blocks(question: str) -> str:
    """string_synthesis: [A] [B] [C] {A} {B} {C} (A) (B) (C)."""

    def counts(**amounts: int) -> tuple[int, ...]:
        return tuple(amounts.get(name, 0) for name in ("a", "b", "c", "d", "e", "f", "g", "h", "i"))

    rules = [(counts(a=1, b=1, c=1), counts(d=1)), (counts(a=1, b=1), counts(f=1)), (counts(b=1, c=1), counts(e=1)),
             (counts(c=2), counts(f=1)), (counts(d=1, f=1), counts(g=1, h=1)), (counts(e=2), counts(i=1))]  # fmt: skip
    start = re.findall(r"(\d+) \[", question.split("Now, you have")[1])
    return _reacted([*map(int, start), 0, 0, 0, 0, 0, 0], rules)


def _reacted(start: list[int], rules: list[tuple[tuple[int, ...], tuple[int, ...]]]) -> str:
    states = [start]
    for _ in itertools.repeat(None, 1000):
        now = states[-1]
        use = next((rule for rule in rules if all(have >= need for have, need in zip(now, rule[0]))), None)
        if use is None:
            break
        after = [have - need + made for have, need, made in zip(now, *use)]
        if after in states:
            break
        states.append(after)
    return " ".join(map(str, states[-1]))
