"""Boards and pictures; a second solution makes a question unsettled."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator

from lightning_cispo.rewards.logic.derived.errors import Unsettled

Grid = list[list[str]]
_MOST_DIVISOR = 50
SIDES = ((0, 1), (1, 0), (0, -1), (-1, 0))


def rows(text: str, pattern: str = r"^[\d_]+(?: [\d_]+)+ *$") -> Grid:
    return [line.split() for line in re.findall(pattern, text, re.MULTILINE)]


def shown(grid: Grid) -> str:
    return "\n".join(" ".join(map(str, row)) for row in grid)


def only(found: Iterator[str]) -> str:
    """The one solution. Raises Unsettled where there is none, or a second one."""
    first, second = next(found, None), next(found, None)
    if first is None or second is not None:
        raise Unsettled("no solution" if first is None else "a second solution")
    return first


def neighbours(grid: Grid, row: int, column: int) -> Iterator[tuple[int, int]]:
    for down, right in SIDES:
        if 0 <= row + down < len(grid) and 0 <= column + right < len(grid[row]):
            yield row + down, column + right


def filled(
    grid: Grid, fits: Callable[[Grid, int, int], bool], values: Callable[[Grid], list[str]], blank: str
) -> Iterator[str]:
    """All ways to fill the blanks, the cell with the fewest choices first."""
    choices: list[tuple[int, int, list[str]]] = []
    for r, row in enumerate(grid):
        for c, cell in enumerate(row):
            if cell == blank:
                possible = []
                for value in values(grid):
                    grid[r][c] = value
                    if fits(grid, r, c):
                        possible.append(value)
                grid[r][c] = blank
                choices.append((r, c, possible))
    if not choices:
        yield shown(grid)
        return
    r, c, possible = min(choices, key=lambda choice: len(choice[2]))
    for value in possible:
        grid[r][c] = value
        yield from filled(grid, fits, values, blank)
    grid[r][c] = blank


def survo(question: str) -> str:
    """The only way to fill the blanks."""
    grid = rows(question)
    listed = re.search(r"\[([\d, ]+)\]", question)
    assert listed
    numbers = listed[1].split(", ")

    def left(g: Grid) -> list[str]:
        rest = list(numbers)
        for r, c in blanks:
            if g[r][c] != "0":
                rest.remove(g[r][c])
        return sorted(set(rest))

    def fits(g: Grid, r: int, c: int) -> bool:
        for line in (g[r], [row[c] for row in g]):
            total, cells = int(line[-1]), list(map(int, line[:-1]))
            if sum(cells) > total or (0 not in cells and sum(cells) != total):
                return False
        return True

    blanks = [(r, c) for r, row in enumerate(grid[:-1]) for c, cell in enumerate(row[:-1]) if cell == "0"]
    return only(filled(grid, fits, left, "0"))


def tsumego(question: str) -> str:
    """The move that captures most stones at once; the library's own may leave the group a liberty."""
    board = [list(line.split()[1:]) for line in re.findall(r"^ *\d+ [.XO ]+$", question, re.MULTILINE)]
    caught = {}
    for r, c in itertools.product(range(len(board)), repeat=2):
        if board[r][c] == ".":
            board[r][c] = "X"
            caught[chr(ord("A") + c) + str(len(board) - r)] = len(_captured(board, r, c))
            board[r][c] = "."
    best = max(caught.values())
    if not best:
        raise Unsettled("no move captures a stone")
    return only(move for move, stones in caught.items() if stones == best)


def _captured(board: Grid, r: int, c: int) -> set[tuple[int, int]]:
    taken: set[tuple[int, int]] = set()
    for start in neighbours(board, r, c):
        group, queue, free = set(), [start], False
        while queue and board[start[0]][start[1]] == "O":
            here = queue.pop()
            if here in group:
                continue
            group.add(here)
            for there in neighbours(board, *here):
                free |= board[there[0]][there[1]] == "."
                if board[there[0]][there[1]] == "O":
                    queue.append(there)
        if not free:
            taken |= group
    return taken


def mahjong(question: str) -> str:
    """mahjong_puzzle: the library calls some rounds Pass whose card makes a Peng or Chi."""
    found = re.search(r"initial cards ([A-Z]+)", question)
    assert found
    hand, result = list(found[1]), ""
    for new, old in re.findall(r"Add an? ([A-Z]) card and remove an? ([A-Z]) card", question):
        numbers = {ord(card) for card in hand}
        chains = any({ord(new) + a, ord(new) + b} <= numbers for a, b in ((-2, -1), (-1, 1), (1, 2)))
        result = "Peng" if hand.count(new) >= 2 else "Chi" if chains else "Pass"
        hand.append(new)
        hand.remove(old)
    return result


_RULES: dict[str, Callable[[int, int], int]] = {
    "sum": lambda x, y: x + y,
    "diff": lambda x, y: abs(x - y),
    "prod": lambda x, y: x * y,
    "pow": lambda x, y: x**y,
}


def modulo(question: str) -> str:
    """modulo_grid: all rules of the family that agree with what the grid shows must fill its holes alike."""
    grid = question.rsplit("\n\n", 1)[1].split("\n")
    shown_cells = {(x, y): cell == "✅" for y, row in enumerate(grid) for x, cell in enumerate(row) if cell != "❔"}
    found = set()
    for rule, divisor in itertools.product(_RULES.values(), range(1, _MOST_DIVISOR + 1)):
        marked = {rule(x, y) % divisor for (x, y), yes in shown_cells.items() if yes}
        if len(marked) != 1:
            continue
        (target,) = marked
        if all((rule(x, y) % divisor == target) == yes for (x, y), yes in shown_cells.items()):
            lines = (
                "".join("✅" if rule(x, y) % divisor == target else "❌" for x in range(len(row)))
                for y, row in enumerate(grid)
            )
            found.add("\n".join(lines))
    return only(iter(sorted(found)))
