"""What a run leaves behind: `metrics.jsonl`, `traces/step-000012.jsonl`, and W&B."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from lightning_cispo.configs.schema import RunConfig, TrackingMode
from lightning_cispo.rl.types import Group, Trajectory
from lightning_cispo.train.metrics import describe


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
        self._traces_dir = run_dir / "traces"
        self._traces_dir.mkdir(parents=True, exist_ok=True)
        kept: list[dict[str, Any]] = []
        if resumed_step is not None:
            kept = self._rewind(resumed_step, resumed_warm_start_step)
        elif self._metrics_path.exists() and self._metrics_path.stat().st_size:
            raise FileExistsError(f"{self._metrics_path} belongs to an earlier run: resume it or choose another name")
        self._file = open(self._metrics_path, "a", encoding="utf-8")
        self._began = time.monotonic() - max((line.get("time/wall_s") or 0.0 for line in kept), default=0.0)
        self._wandb = None
        if config.tracking.mode is not TrackingMode.disabled:
            from lightning_cispo.train.wandb_run import WandbRun  # wandb need not be installed to track without it

            self._wandb = WandbRun(run_dir, config, logged=len(kept))

    def _rewind(self, step: int, warm_start_step: int | None) -> list[dict[str, Any]]:
        lines = read_metrics(self._metrics_path.parent)
        kept = [line for line in lines if _precedes(line, step, warm_start_step)]
        aside = self._metrics_path.with_suffix(".tmp")
        aside.write_text("".join(_json(line) + "\n" for line in kept), encoding="utf-8")
        aside.replace(self._metrics_path)
        for path in self._traces_dir.glob("step-*.jsonl"):
            if step == 0 or int(path.stem.removeprefix("step-")) > step:
                path.unlink()
            else:
                _cut_partial_line(path)
        return kept

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """One line. `step` and `time/wall_s` are added. Raises UnknownMetric for a name outside the table."""
        for name in metrics:
            describe(name)
        line = {"step": step, "time/wall_s": round(time.monotonic() - self._began, 3)}
        line |= {name: value if isinstance(value, int) else float(value) for name, value in metrics.items()}
        self._file.write(_json({name: _finite(value) for name, value in line.items()}) + "\n")
        self._file.flush()
        if self._wandb:
            self._wandb.log(line)

    def log_traces(
        self,
        step: int,
        groups: list[Group],
        kind: str = "train",
        decode: Callable[[np.ndarray], str] | None = None,
    ) -> None:
        """All responses of `groups`, a JSON line each. `kind`: train or eval.

        `decode` makes text of a prompt's tokens; without it the question stands for what the policy read.
        """
        # A lone surrogate in a response is written as the JSON escape that backslashreplace makes of it.
        path = self._traces_dir / f"step-{step:06d}.jsonl"
        with open(path, "a", encoding="utf-8", errors="backslashreplace") as file:
            for index, group in enumerate(groups):
                prompt = decode(group.prompt.tokens_T) if decode else group.prompt.problem.prompt
                for trajectory in group.trajectories:
                    trace = {"step": step, "kind": kind, "group": index, **_trace(group, prompt, trajectory)}
                    file.write(_json(trace) + "\n")

    def close(self, exit_code: int = 0) -> None:
        self._file.close()
        if self._metrics_path.exists() and not self._metrics_path.stat().st_size:
            self._metrics_path.unlink()  # a start that failed leaves its name free
        if self._wandb:
            self._wandb.close(exit_code)

    def __enter__(self) -> Tracker:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close(exit_code=0 if kind is None else 1)


def _precedes(line: dict[str, Any], step: int, warm_start_step: int | None) -> bool:
    """Whether a run that goes on from these steps keeps the line. At step 0 it will evaluate again."""
    if warm_start_step is not None and line.get("warm_start/step", 0) > warm_start_step:
        return False
    evaluation = any(name.startswith("eval/") for name in line)
    return line["step"] <= step and not (step == 0 and evaluation)


def _trace(group: Group, prompt: str, trajectory: Trajectory) -> dict[str, Any]:
    problem, verdict = group.prompt.problem, trajectory.verdict
    chosen = trajectory.sampler_logprobs_T[trajectory.loss_mask_T]
    versions = trajectory.versions_T
    return {
        "sample": trajectory.sample,
        "task": problem.task,
        "question": problem.prompt,
        "prompt": prompt,
        "response": trajectory.text,
        "gold": problem.answer,
        "reward": _finite(verdict.reward),
        "correct": verdict.correct,
        "parts": {name: _finite(value) for name, value in verdict.parts.items()},
        "error": verdict.error,
        "status": verdict.status.value,
        "stop": trajectory.stop,
        "tokens": len(trajectory.tokens_T),
        "versions": [int(versions.min()), int(versions.max())] if len(versions) else [],
        "mean_logprob": _finite(float(np.mean(chosen, dtype=np.float64))) if len(chosen) else None,
    }


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _json(line: dict[str, Any]) -> str:
    return json.dumps(line, ensure_ascii=False, allow_nan=False)


def _cut_partial_line(path: Path) -> None:
    text = path.read_bytes()
    if not text.endswith(b"\n"):
        path.write_bytes(text[: text.rfind(b"\n") + 1])


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
