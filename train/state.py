"""Where a run stands, and the folders that hold it: `checkpoints/warm-000300`, `checkpoints/step-000012`."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from lightning_cispo.model.aside import written_aside
from lightning_cispo.model.checksums import write_checksums
from lightning_cispo.model.folders import finished_checkpoints, is_checkpoint


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


def save_state(checkpoints: Path, state: RunState, write: Callable[[Path], None]) -> Path:
    """Write a checkpoint: `write` fills a folder, the state and checksums are added, and it is renamed into place."""
    final = checkpoints / state.label
    with written_aside(final) as folder:
        write(folder)
        (folder / "state.json").write_text(json.dumps(asdict(state), indent=1))
        write_checksums(folder)
    return final


def last_checkpoint(run_folder: Path) -> Path | None:
    """The newest whole checkpoint of a run."""
    found = finished_checkpoints(run_folder / "checkpoints")
    return found[-1] if found else None


def resume_point(resume: str) -> tuple[Path, Path | None]:
    """The run folder that `resume` names, itself or by one of its checkpoints, and the checkpoint to go on from."""
    folder = Path(resume)
    if is_checkpoint(folder.resolve()):
        return folder.parent.parent, folder.resolve()
    return folder, last_checkpoint(folder.resolve())


def load_state(checkpoint: Path) -> RunState:
    return RunState(**json.loads((checkpoint / "state.json").read_text()))
