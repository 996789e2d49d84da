"""What a run leaves behind: `metrics.jsonl`, `traces/step-000012.jsonl`, and W&B."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from lightning_cispo.configs.schema import RunConfig, TrackingMode
from lightning_cispo.model.aside import write_text_aside
from lightning_cispo.rl.types import Group
from lightning_cispo.train.lines import read_lines, read_metrics
from lightning_cispo.train.metrics import describe
from lightning_cispo.train.traces import Traces, finite

__all__ = ["Tracker", "read_lines", "read_metrics"]


class Tracker:
    """The only writer of a run's metrics and traces. Lines are flushed one by one: a killed run keeps them.

    with Tracker(run_dir, config) as tracker:
        tracker.log(step, {"reward/mean": 0.4})
        tracker.log_traces(step, groups)
    """

    def __init__(
        self,
        run_dir: Path,
        config: RunConfig,
        resumed_step: int | None = None,
        resumed_warm_start_step: int | None = None,
    ) -> None:
        """The steps of the checkpoint the run goes on from: what was written of later ones is dropped.

        Raises FileExistsError where the folder has metrics and `resumed_step` is None.
        """
        self._metrics_path = run_dir / "metrics.jsonl"
        self._traces = Traces(run_dir / "traces", config.tracking.traces, config.tracking.traces_mb)
        kept: list[dict[str, Any]] = []
        if resumed_step is not None:
            kept = self._rewind(resumed_step, resumed_warm_start_step)
        elif self._metrics_path.exists() and self._metrics_path.stat().st_size:
            raise FileExistsError(f"{self._metrics_path} belongs to an earlier run: resume it or choose another name")
        self._file = open(self._metrics_path, "a", encoding="utf-8")
        self.evaluated = {_evaluated_step(line) for line in kept} - {None}  # steps whose weights were evaluated
        self.exit_code = 0  # of a program that ends without an exception
        self._began = time.monotonic() - max((line.get("time/wall_s") or 0.0 for line in kept), default=0.0)
        self._wandb = None
        if config.tracking.mode is not TrackingMode.disabled:
            from lightning_cispo.train.wandb_run import WandbRun  # wandb need not be installed to track without it

            self._wandb = WandbRun(run_dir, config, kept)

    def _rewind(self, step: int, warm_start_step: int | None) -> list[dict[str, Any]]:
        lines = read_metrics(self._metrics_path.parent)
        kept = [line for line in lines if _precedes(line, step, warm_start_step)]
        text = "".join(_json(line) + "\n" for line in kept)
        write_text_aside(self._metrics_path, text)
        self._traces.rewind(step, evaluated=step in map(_evaluated_step, kept))
        return kept

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """One line. `step` and `time/wall_s` are added. Raises UnknownMetric for a name outside the table."""
        for name in metrics:
            describe(name)
        line = {"step": step, "time/wall_s": round(time.monotonic() - self._began, 3)}
        line |= {name: value if isinstance(value, int) else float(value) for name, value in metrics.items()}
        self._file.write(_json({name: finite(value) for name, value in line.items()}) + "\n")
        self._file.flush()
        self.evaluated |= {_evaluated_step(line)} - {None}
        if self._wandb:
            self._wandb.log(line)

    def log_traces(
        self,
        step: int,
        groups: list[Group],
        kind: str = "train",
        decode: Callable[[np.ndarray], str] | None = None,
    ) -> None:
        """Responses of `groups`, a JSON line each, as many as tracking.traces allows. `kind`: train or eval.

        `decode` makes text of a prompt's tokens; without it the question stands for what the policy read.
        """
        self._traces.write(step, groups, kind, decode)

    def sync(self) -> None:
        """Wait until the lines so far are on disk, as a checkpoint that counts on them is about to be."""
        os.fsync(self._file.fileno())

    def close(self, exit_code: int = 0) -> None:
        self._file.close()
        if self._metrics_path.exists() and not self._metrics_path.stat().st_size:
            self._metrics_path.unlink()  # a start that failed leaves its name free
        if self._wandb:
            self._wandb.close(exit_code)

    def __enter__(self) -> Tracker:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close(self.exit_code if error is None else _exit_code(error))


def _exit_code(error: BaseException) -> int:
    """What the program will end with for an exception that leaves the tracker's block."""
    if isinstance(error, KeyboardInterrupt):
        return 128 + int(getattr(error, "signal", 2))
    return 1


def _evaluated_step(line: dict[str, Any]) -> int | None:
    """The step of a line that an evaluation wrote."""
    return line["step"] if any(name.startswith("eval/") or name == "time/evaluate_s" for name in line) else None


def _precedes(line: dict[str, Any], step: int, warm_start_step: int | None) -> bool:
    """Whether a run that goes on from these steps keeps the line. At step 0 it will evaluate again."""
    if warm_start_step is not None and line.get("warm_start/step", 0) > warm_start_step:
        return False
    return line["step"] <= step and not (step == 0 and _evaluated_step(line) is not None)


def _json(line: dict[str, Any]) -> str:
    return json.dumps(line, ensure_ascii=False, allow_nan=False)
