"""When a run saves itself, and which of its checkpoints stay: the newest ones and the best one."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from lightning_cispo.configs.errors import ConfigError
from lightning_cispo.configs.schema import CheckpointConfig
from lightning_cispo.model.aside import clear_asides, write_text_aside
from lightning_cispo.model.checksums import damaged
from lightning_cispo.model.folders import finished_checkpoints, is_checkpoint
from lightning_cispo.train.state import RunState, save_state


class Checkpoints:
    """The checkpoints of one run. One program at a time (`train.lock`)."""

    def __init__(self, run_folder: Path, options: CheckpointConfig, resumed: Path | None) -> None:
        """`resumed`: the checkpoint that the run goes on from; those after it are renamed and no longer count."""
        self.folder, self.options = run_folder / "checkpoints", options
        clear_asides(self.folder)
        self.set_aside = _set_aside_later(self.folder, resumed) if resumed else []
        self._saved = resumed.name if resumed else None
        self._saved_at = time.monotonic()
        self._last_s = 0.0

    def due(self, steps: int) -> bool:
        """Whether to save after as many steps of the phase under way, by their count or by the clock."""
        every, minutes = self.options.every, self.options.every_minutes
        by_clock = bool(minutes) and time.monotonic() - self._saved_at >= 60 * minutes
        return by_clock or bool(every) and steps % every == 0

    def save(self, state: RunState, write: Callable[[Path], None]) -> float | None:
        """Write the state unless the newest checkpoint is of it. Returns the seconds it took, None if it was there."""
        if self._saved == state.label:
            return None
        started = time.monotonic()
        self.folder.mkdir(parents=True, exist_ok=True)
        save_state(self.folder, state, write)
        self._saved, self._saved_at = state.label, time.monotonic()
        self._prune()
        return self._saved_at - started

    def score(self, state: RunState, metrics: Mapping[str, float]) -> None:
        """Note the checkpoint of `state` as the best one if it exists and its metric exceeds the best one's."""
        metric = self.options.best
        if metric is None or metric not in metrics or self._saved != state.label:
            return
        value, best = float(metrics[metric]), self.best()
        if best is None or (value < best["value"] if self.options.best_is_lowest else value > best["value"]):
            line = {"metric": metric, "value": value, "checkpoint": state.label}
            write_text_aside(self._best_path, json.dumps(line) + "\n")
            self._prune()

    def best(self) -> dict[str, Any] | None:
        """`{"metric", "value", "checkpoint"}` of the best one so far; None before there is one."""
        try:
            best = json.loads(self._best_path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        counts = best["metric"] == self.options.best and is_checkpoint(self.folder / best["checkpoint"])
        return best if counts else None

    @property
    def _best_path(self) -> Path:
        return self.folder / "best.json"

    def _prune(self) -> None:
        best = self.best()
        for stale in finished_checkpoints(self.folder)[: -self.options.keep]:
            if best is None or stale.name != best["checkpoint"]:
                shutil.rmtree(stale)


def _set_aside_later(folder: Path, resumed: Path) -> list[str]:
    """Rename the checkpoints after `resumed`: the run will write its own under their names. Returns the new names."""
    found = finished_checkpoints(folder)
    later = found[found.index(resumed) + 1 :] if resumed in found else []
    for checkpoint in later:
        target = checkpoint.with_name(f"{checkpoint.name}.set-aside")
        shutil.rmtree(target, ignore_errors=True)
        checkpoint.rename(target)
    return [f"{checkpoint.name}.set-aside" for checkpoint in later]


def refuse_damaged(key: str, given: str, folder: Path) -> None:
    """Raises ConfigError where a checkpoint, or the `model` in one, has other bytes than were written.

    The error names the newest whole one before it. `given` is the key's value, `folder` what it means.
    """
    wrong = damaged(folder)
    if not wrong:
        return
    more = f" and {len(wrong) - 1} more" if len(wrong) > 1 else ""
    said = f"{key}={given}: {folder} is damaged: {wrong[0]}{more}"
    checkpoint, part = (folder.parent, folder.name) if is_checkpoint(folder.parent) else (folder, ".")
    found = finished_checkpoints(checkpoint.parent)
    earlier = found[: found.index(checkpoint)] if checkpoint in found else []
    whole = next((path for path in reversed(earlier) if not damaged(path / part)), None)
    raise ConfigError(f"{said}; {f'the one before is whole: {key}={whole}' if whole else 'no whole one is before it'}")
