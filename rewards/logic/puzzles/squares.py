"""Latin squares to be completed: sudoku, futoshiki, skyscrapers. Any completion that keeps the rules is right."""

from __future__ import annotations

import random
import re
from itertools import product
from typing import Any

Grid = list[list[int]]

_ROW = "Answer with the {n} rows of the completed grid, one a line, numbers separated by blanks."


def _latin(rng: random.Random, n: int) -> Grid:
    rows, columns, digits = (rng.sample(range(n), n) for _ in range(3))
    return [[digits[(r + c) % n] + 1 for c in columns] for r in rows]


def _holes(rng: random.Random, grid: Grid, share: float) -> Grid:
    n = len(grid)
    hidden = set(rng.sample(range(n * n), max(1, round(share * n * n))))
    return [[0 if r * n + c in hidden else grid[r][c] for c in range(n)] for r in range(n)]


def _text(grid: Grid) -> str:
    return "\n".join(" ".join(str(cell or "_") for cell in row) for row in grid)


def _read(answer: str, n: int) -> Grid | None:
    """A grid of n x n numbers in which no row or column has one twice."""
    lines = answer.strip().splitlines()
    if len(lines) != n or not all(re.fullmatch(r"\d{1,2}( +\d{1,2})*", line.strip(), re.ASCII) for line in lines):
        return None
    grid = [[int(cell) for cell in line.split()] for line in lines]
    wanted = set(range(1, n + 1))
    if any(len(row) != n or set(row) != wanted for row in grid) or any(set(column) != wanted for column in zip(*grid)):
        return None
    return grid


def _completes(grid: Grid, given: Grid) -> bool:
    return all(cell in (0, found) for row, ours in zip(given, grid) for cell, found in zip(row, ours))


def make_sudoku(rng: random.Random, difficulty: int) -> tuple[str, str, dict[str, Any]]:
    box = 2 if difficulty < 3 else 3
    n = box * box
    bands = [[b * box + i for i in rng.sample(range(box), box)] for b in rng.sample(range(box), box)]
    stacks = [[b * box + i for i in rng.sample(range(box), box)] for b in rng.sample(range(box), box)]
    digits = rng.sample(range(1, n + 1), n)
    rows, columns = sum(bands, []), sum(stacks, [])
    grid = [[digits[(r % box * box + r // box + c) % n] for c in columns] for r in rows]
    given = _holes(rng, grid, 0.15 + 0.05 * difficulty)
    question = (
        f"Complete this sudoku: each row, each column and each {box} x {box} box holds the numbers 1 to {n} once.\n\n"
        f"{_text(given)}\n\n{_ROW.format(n=n)}"
    )
    return question, _text(grid), {"given": given}


def check_sudoku(answer: str, data: dict[str, Any]) -> bool:
    given = data["given"]
    n = len(given)
    box = round(n**0.5)
    grid = _read(answer, n)
    if grid is None or not _completes(grid, given):
        return False
    boxes = ({grid[r + i][c + j] for i in range(box) for j in range(box)} for r, c in _corners(n, box))
    return all(len(cells) == n for cells in boxes)


def _corners(n: int, box: int) -> list[tuple[int, int]]:
    return list(product(range(0, n, box), range(0, n, box)))


def make_futoshiki(rng: random.Random, difficulty: int) -> tuple[str, str, dict[str, Any]]:
    n = 3 + (difficulty + 1) // 3
    grid = _latin(rng, n)
    given = _holes(rng, grid, 0.5 + 0.045 * difficulty)
    pairs = [((r, c), (r, c + 1)) for r in range(n) for c in range(n - 1)]
    pairs += [((r, c), (r + 1, c)) for r in range(n - 1) for c in range(n)]
    below = []  # cells (row, column, row, column): the first holds less than the second
    for one, other in rng.sample(pairs, max(n, len(pairs) // 3)):
        less = (one, other) if grid[one[0]][one[1]] < grid[other[0]][other[1]] else (other, one)
        below.append([*less[0], *less[1]])
    rules = "\n".join(f"row {a + 1} column {b + 1} < row {c + 1} column {d + 1}" for a, b, c, d in below)
    question = (
        f"Complete this grid: each row and each column holds the numbers 1 to {n} once.\n\n{_text(given)}\n\n"
        f"These must hold:\n{rules}\n\n{_ROW.format(n=n)}"
    )
    return question, _text(grid), {"given": given, "below": below}


def check_futoshiki(answer: str, data: dict[str, Any]) -> bool:
    grid = _read(answer, len(data["given"]))
    if grid is None or not _completes(grid, data["given"]):
        return False
    return all(grid[a][b] < grid[c][d] for a, b, c, d in data["below"])


def make_skyscrapers(rng: random.Random, difficulty: int) -> tuple[str, str, dict[str, Any]]:
    n = 3 + (difficulty + 1) // 3
    grid = _latin(rng, n)
    given = _holes(rng, grid, min(1.0, 0.6 + 0.04 * difficulty))
    seen = _views(grid)
    views = "\n".join(f"from the {side}: {' '.join(map(str, counts))}" for side, counts in seen.items())
    question = (
        f"Complete this city of {n} x {n} towers: each row and each column holds the heights 1 to {n} once.\n\n"
        f"{_text(given)}\n\nA tower hides all lower ones behind it. So many towers are seen\n{views}\n(left and right: "
        f"row by row from the top; top and bottom: column by column from the left).\n\n{_ROW.format(n=n)}"
    )
    return question, _text(grid), {"given": given, "views": seen}


def _views(grid: Grid) -> dict[str, list[int]]:
    columns = [list(column) for column in zip(*grid)]
    return {
        "left": [_seen(row) for row in grid],
        "right": [_seen(row[::-1]) for row in grid],
        "top": [_seen(column) for column in columns],
        "bottom": [_seen(column[::-1]) for column in columns],
    }


def _seen(heights: list[int]) -> int:
    return sum(height > max(heights[:i], default=0) for i, height in enumerate(heights))


def check_skyscrapers(answer: str, data: dict[str, Any]) -> bool:
    grid = _read(answer, len(data["given"]))
    return grid is not None and _completes(grid, data["given"]) and _views(grid) == data["views"]
