"""Grids and boards: every answer is derived from the picture in the question; a second solution is an error."""

from __future__ import annotations

import itertools
import json
import re
from collections import deque

from lightning_cispo.rewards.logic.derived.boards import Grid, filled, neighbours, only, rows, shown


def life(question: str) -> str:
    found = re.search(r"after (\d+) steps.*?(\[\[.*\]\])\.?\s*$", question, re.DOTALL)
    assert found
    board = json.loads(found[2].rsplit("\n\n", 1)[-1])
    height, width = len(board), len(board[0])
    around = [(i, j) for i in (-1, 0, 1) for j in (-1, 0, 1) if i or j]
    for _ in range(int(found[1])):
        alive = {(r, c): sum(board[(r + i) % height][(c + j) % width] for i, j in around)
                 for r in range(height) for c in range(width)}  # fmt: skip
        board = [
            [int(alive[r, c] == 3 or (board[r][c] and alive[r, c] == 2)) for c in range(width)] for r in range(height)
        ]
    return json.dumps(board, separators=(",", ":"))


def island(question: str) -> str:
    grid, best, seen = rows(question), 0, set()
    for start in itertools.product(range(len(grid)), range(len(grid[0]))):
        queue, size = [start], 0
        while queue:
            r, c = queue.pop()
            if grid[r][c] == "1" and (r, c) not in seen:
                seen.add((r, c))
                size += 1
                queue += neighbours(grid, r, c)
        best = max(best, size)
    return str(best)


def maze(question: str) -> str:
    names = re.search(r"from '(.)' \(start\) to '(.)' \(goal\)", question)
    wall = re.search(r"'(.)' = Wall", question)
    assert names and wall
    picture = re.search(r"```\n(.*)\n```\nLegend", question, re.DOTALL)
    assert picture
    grid = [list(line) for line in picture[1].split("\n")]
    where = {cell: (r, c) for r, row in enumerate(grid) for c, cell in enumerate(row)}
    queue, steps = deque([where[names[1]]]), {where[names[1]]: 0}
    while queue:
        here = queue.popleft()
        for there in neighbours(grid, *here):
            if there not in steps and grid[there[0]][there[1]] != wall[1]:
                steps[there] = steps[here] + 1
                queue.append(there)
    return str(steps[where[names[2]]])


def oranges(question: str) -> str:
    grid = rows(question)
    minutes = 0
    while True:
        rotten = [(r, c) for r, row in enumerate(grid) for c, cell in enumerate(row) if cell == "2"]
        next_ones = {(i, j) for r, c in rotten for i, j in neighbours(grid, r, c) if grid[i][j] == "1"}
        if not next_ones:
            return "-1" if any("1" in row for row in grid) else str(minutes)
        minutes += 1
        for r, c in next_ones:
            grid[r][c] = "2"


def rotate(question: str) -> str:
    found = re.search(r"by (\d+) degrees clockwise", question)
    assert found
    grid = rows(question)
    for _ in range(int(found[1]) // 90 % 4):
        grid = [list(row) for row in zip(*reversed(grid))]
    return shown(grid)


def _latin(grid: Grid, r: int, c: int, box: int = 0) -> bool:
    cells = [grid[r][j] for j in range(len(grid)) if j != c] + [grid[i][c] for i in range(len(grid)) if i != r]
    if box:
        top, left = r - r % box, c - c % box
        square = itertools.product(range(top, top + box), range(left, left + box))
        cells += [grid[i][j] for i, j in square if (i, j) != (r, c)]
    return grid[r][c] not in cells


def sudoku(question: str) -> str:
    grid = rows(question)
    box = 2 if len(grid) == 4 else 3
    digits = [str(n + 1) for n in range(len(grid))]
    return only(filled(grid, lambda g, r, c: _latin(g, r, c, box), lambda _: digits, "_"))


def futoshiki(question: str) -> str:
    picture = re.findall(r"^[\d_ <>∧∨]+$", question.split("puzzle:\n\n")[1].split("\n\nEnsure")[0], re.MULTILINE)
    lines, between = picture[::2], picture[1::2]
    grid = [re.findall(r"[\d_]", line) for line in lines]
    signs = [((r, k), (r, k + 1), line[2 + 4 * k]) for r, line in enumerate(lines) for k in range(len(grid) - 1)]
    signs += [((r, c), (r + 1, c), line[4 * c] if 4 * c < len(line) else " ")
              for r, line in enumerate(between) for c in range(len(grid))]  # fmt: skip
    digits = [str(n + 1) for n in range(len(grid))]

    def fits(g: Grid, r: int, c: int) -> bool:
        if not _latin(g, r, c):
            return False
        for one, other, sign in signs:
            if sign != " " and (r, c) in (one, other):
                a, b = g[one[0]][one[1]], g[other[0]][other[1]]
                if "_" not in (a, b) and not (int(a) < int(b) if sign in "<∧" else int(a) > int(b)):
                    return False
        return True

    solved = only(filled(grid, fits, lambda _: digits, "_")).split("\n")
    out = []
    for r, line in enumerate(lines):
        numbers = iter(solved[r].split())
        out.append(re.sub(r"[\d_]", lambda _, numbers=numbers: next(numbers), line))
        out += between[r : r + 1]
    return "\n".join(out)
