"""Minesweeper: any set of mines that explains all numbers is right."""

from __future__ import annotations

import random
import re
from typing import Any

Cell = tuple[int, int]


def make_minesweeper(rng: random.Random, difficulty: int) -> tuple[str, str, dict[str, Any]]:
    n = 3 + (difficulty + 1) // 2
    cells = [(r, c) for r in range(n) for c in range(n)]
    mines = set(rng.sample(cells, max(1, round(n * n * (0.1 + 0.015 * difficulty)))))
    safe = [cell for cell in cells if cell not in mines]
    shown = set(rng.sample(safe, max(1, round(len(safe) * (0.9 - 0.03 * difficulty)))))
    rows = [[_near((r, c), mines) if (r, c) in shown else -1 for c in range(n)] for r in range(n)]
    text = "\n".join(" ".join("?" if count < 0 else str(count) for count in row) for row in rows)
    question = (
        f"In this minefield a number says how many of the up to eight cells around it hold a mine; {len(mines)} of the "
        f"cells marked ? hold one.\n\n{text}\n\n"
        "Answer with the mines as row,column counted from 1, separated by blanks."
    )
    answer = " ".join(f"{r + 1},{c + 1}" for r, c in sorted(mines))
    return question, answer, {"rows": rows, "mines": len(mines)}


def check_minesweeper(answer: str, data: dict[str, Any]) -> bool:
    if not re.fullmatch(r"\d{1,2},\d{1,2}( +\d{1,2},\d{1,2})*", answer.strip(), re.ASCII):
        return False
    listed = [tuple(int(number) - 1 for number in pair.split(",")) for pair in answer.split()]
    mines = {(r, c) for r, c in listed}
    rows = data["rows"]
    n = len(rows)
    if len(mines) != len(listed) or len(mines) != data["mines"]:
        return False
    if not all(0 <= r < n and 0 <= c < n and rows[r][c] < 0 for r, c in mines):
        return False
    return all(rows[r][c] < 0 or rows[r][c] == _near((r, c), mines) for r in range(n) for c in range(n))


def _near(cell: Cell, mines: set[Cell]) -> int:
    return sum((cell[0] + i, cell[1] + j) in mines for i in (-1, 0, 1) for j in (-1, 0, 1) if i or j)
