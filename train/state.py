"""Checkpoints of a run: where it stands, written aside and renamed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from lightning_cispo.model.aside import written_aside


@dataclass
class RunState:
    """Where a run stands; beside the learner's state and the seed all there is, as randomness is keyed."""

    warm_start_step: int = 0  # supervised steps done
    step: int = 0  # RL steps done
    warm_start_position: int = 0  # of the prompt streams
    position: int = 0
    expert_load_E: list[float] | None = None
    courses: list[list[Any]] = field(default_factory=list)  # `Courses.state`

    @property
    def label(self) -> str:
        return f"step-{self.step:06d}" if self.step else f"warm-{self.warm_start_step:06d}"

    @property
    def reached(self) -> str:
        """Where the weights stand, in words."""
        if self.step:
            return f"after step {self.step}"
        return "after the warm start" if self.warm_start_step else "before training"


def save_state(checkpoints: Path, state: RunState, write: Callable[[Path], None], keep: int) -> Path:
    """Write a checkpoint folder by `write`, add the state, rename it into place, and drop the oldest beyond `keep`."""
    final = checkpoints / state.label
    checkpoints.mkdir(parents=True, exist_ok=True)
    with written_aside(final) as folder:
        write(folder)
        (folder / "state.json").write_text(json.dumps(asdict(state), indent=1))
    for stale in finished_checkpoints(checkpoints)[: -max(1, keep)]:
        shutil.rmtree(stale)
    return final


def finished_checkpoints(checkpoints: Path) -> list[Path]:
    """Whole checkpoints, oldest first."""
    found = [
        path for path in checkpoints.glob("*-*") if not path.name.startswith(".") and (path / "state.json").exists()
    ]
    return sorted(found, key=lambda path: (path.name.startswith("step-"), path.name))


def load_state(checkpoint: Path) -> RunState:
    return RunState(**json.loads((checkpoint / "state.json").read_text()))
