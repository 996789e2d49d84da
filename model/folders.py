"""Find the weights that a path means: a folder in Hugging Face's format, a run's checkpoint, or a run."""

from __future__ import annotations

import re
from pathlib import Path

_LABEL = re.compile(r"(warm|step)-(\d{6,})")


def weights_folder(path: str) -> Path:
    """Return the folder with config.json: the path itself, its `model/`, or that of a run's newest checkpoint."""
    folder = Path(path).expanduser().resolve()  # actors on other nodes have another working directory
    if (folder / "config.json").exists():
        return folder
    if (folder / "model" / "config.json").exists():
        return folder / "model"
    checkpoints = finished_checkpoints(folder / "checkpoints")
    return checkpoints[-1] / "model" if checkpoints else folder


def finished_checkpoints(checkpoints: Path) -> list[Path]:
    """Whole checkpoints, oldest first."""
    return sorted(filter(is_checkpoint, checkpoints.glob("*-*")), key=_order)


def is_checkpoint(folder: Path) -> bool:
    """Whether it has a checkpoint's name and was finished: it is renamed into place when its last byte is on disk."""
    return _LABEL.fullmatch(folder.name) is not None and (folder / "state.json").exists()


def _order(checkpoint: Path) -> tuple[bool, int]:
    match = _LABEL.fullmatch(checkpoint.name)
    assert match is not None  # is_checkpoint
    return match[1] == "step", int(match[2])
