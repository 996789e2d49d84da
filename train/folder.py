"""Names of run folders."""

from __future__ import annotations

from pathlib import Path

from lightning_cispo.train.lock import in_use


def free_name(runs_dir: Path, name: str) -> str:
    """`name`, or the first of name-2, name-3 ... that no earlier run has taken."""
    candidate, number = name, 1
    while _taken(runs_dir / candidate):
        number += 1
        candidate = f"{name}-{number}"
    return candidate


def _taken(folder: Path) -> bool:
    # An empty metrics.jsonl counts: it is a run that starts now. One whose start failed removes it.
    return in_use(folder) or any(any(folder.glob(left)) for left in ("metrics.jsonl", "checkpoints/*", "traces/*"))
