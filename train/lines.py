"""Reading the JSON lines of a run's files."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def read_metrics(run_dir: Path) -> list[dict[str, Any]]:
    """The lines of `metrics.jsonl`, as written; none where the file is missing."""
    path = run_dir / "metrics.jsonl"
    return list(read_lines(path)) if path.exists() else []


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """JSON lines of a run's file. A last line without its newline, cut off by a kill, is left out.

    Raises ValueError for any other line that is not JSON.
    """
    with open(path, encoding="utf-8", errors="replace") as file:
        for line in file:
            if line.endswith("\n"):
                yield json.loads(line)
