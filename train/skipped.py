"""Updates that were skipped as their numbers were not finite: kept to look at, and too many in a row end the run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

import numpy as np

from lightning_cispo.rl.packing import MicroBatch
from lightning_cispo.train.ended import RunEnded
from lightning_cispo.train.learner_group import Outcome, StepReport

_MOST_FILES = 20  # the newest; one is of some 30 bytes a token, and more with recorded routing


class SkippedUpdates:
    """Follows the outcome of every update of a run.

    `most`: skipped updates in a row that end the run. `say` prints a line.
    """

    def __init__(self, run_folder: Path, most: int, say: Callable[[str], None]):
        self.folder, self.most, self.say = run_folder / "skipped", most, say
        self.in_a_row = 0

    def note(self, label: str, report: StepReport) -> None:
        """Count an update. Of a skipped one, write the micro-batches at fault, and say so.

        label: names the update, and begins the files' names. Raises RunEnded after the last one that may be skipped.
        """
        if report.outcome is Outcome.applied:
            self.in_a_row = 0
        if report.outcome is not Outcome.skipped:
            return
        self.in_a_row += 1
        files = [self._write(f"{label}-{index}", batch) for index, batch in enumerate(report.offenders[:_MOST_FILES])]
        kept = f"; its micro-batch is in {files[0]}" if files else ""
        self.say(f"{label}: skipped, the loss or a gradient is not finite ({self.in_a_row} in a row){kept}")
        if self.in_a_row >= self.most:
            raise RunEnded(
                f"{self.in_a_row} updates in a row had a loss or a gradient that is not finite "
                f"(learner.max_skipped_updates={self.most}); the micro-batches are in {self.folder}"
            )

    def _write(self, name: str, batch: MicroBatch) -> Path:
        """The arrays of a micro-batch, by name, for `numpy.load`. The oldest files beyond _MOST_FILES go."""
        self.folder.mkdir(exist_ok=True)
        path = self.folder / f"{name}.npz"
        columns = {field.name: getattr(batch, field.name) for field in fields(batch)}
        np.savez_compressed(path, **{name: column for name, column in columns.items() if column is not None})
        written = sorted(self.folder.glob("*.npz"), key=lambda file: file.stat().st_mtime_ns)
        for stale in written[:-_MOST_FILES]:
            stale.unlink()
        return path
