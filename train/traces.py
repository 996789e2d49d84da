"""Responses on disk: `traces/step-000012.jsonl`, beside it `step-000012.index`, within a rate and a size."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from lightning_cispo.rl.types import Group, Trajectory

_IDS = ("prompt_ids", "token_ids")


class Traces:
    """The only writer of a run's traces. A step's file comes after its index, which holds a line a group."""

    def __init__(self, folder: Path, per_step: int, megabytes: int) -> None:
        """`per_step`: most responses of a training step, in whole groups. `megabytes`: most MiB of all files."""
        self.folder, self.per_step, self.most_bytes = folder, per_step, megabytes << 20
        folder.mkdir(parents=True, exist_ok=True)
        self._sizes = {path: _size(path) for path in trace_files(folder)}

    def rewind(self, step: int, evaluated: bool) -> None:
        """Drop what a killed run wrote after step `step`, and that step's evaluation unless it was finished."""
        for path in trace_files(self.folder):
            if step == 0 or step_of(path) > step:
                self._remove(path)
            elif not evaluated and step_of(path) == step:
                self._rewrite(path, [line for line in _lines(path) if line["kind"] != "eval"])
            elif read_index(path) is None:
                self._rewrite(path, list(_lines(path)))

    def write(self, step: int, groups: list[Group], kind: str, decode: Callable[[np.ndarray], str] | None) -> None:
        """A JSON line for each response; then the oldest steps go while all files are over the size."""
        path, chosen = self.folder / f"step-{step:06d}.jsonl", self._chosen(groups, kind)
        if not chosen:
            return
        lines = (
            {"step": step, "kind": kind, "group": index, **trace}
            for index in chosen
            for trace in _group_traces(groups[index], decode)
        )
        self._append(path, lines)
        total = sum(self._sizes.values())
        for oldest in sorted(self._sizes, key=step_of):
            if total <= self.most_bytes or oldest == path:
                break
            total -= self._sizes[oldest]
            self._remove(oldest)

    def _chosen(self, groups: list[Group], kind: str) -> list[int]:
        """Which groups are traced: of a training step with too many, evenly spaced ones, one at least."""
        if not self.per_step:
            return []
        responses = sum(len(group.trajectories) for group in groups)
        if kind != "train" or responses <= self.per_step:
            return list(range(len(groups)))
        count = max(1, self.per_step * len(groups) // responses)
        return [index * len(groups) // count for index in range(count)]

    def _append(self, path: Path, lines: Iterator[dict[str, Any]]) -> None:
        """Write lines until the file alone would be over the size; index every group of them."""
        entries: list[dict[str, Any]] = []
        # A lone surrogate in a response is written as the JSON escape that backslashreplace makes of it.
        with open(path, "a", encoding="utf-8", errors="backslashreplace") as file:
            offset = file.tell()
            for line in lines:
                text = _json(line) + "\n"
                size = len(text.encode("utf-8", errors="backslashreplace"))
                if offset + size > self.most_bytes:
                    break
                file.write(text)
                group = {"kind": line["kind"], "group": line["group"]}
                if not entries or group.items() - entries[-1].items():
                    entries.append({**group, "at": offset, "bytes": 0, "shown": 0, "count": 0})
                entries[-1]["bytes"] += size
                entries[-1]["shown"] += size - sum(len(_json(line[key])) for key in _IDS if key in line)
                entries[-1]["count"] += 1
                offset += size
        with open(index_of(path), "a", encoding="utf-8") as file:
            file.writelines(_json(entry) + "\n" for entry in entries)
        self._sizes[path] = _size(path)

    def _rewrite(self, path: Path, lines: list[dict[str, Any]]) -> None:
        self._remove(path)
        self._append(path, iter(lines))

    def _remove(self, path: Path) -> None:
        index_of(path).unlink(missing_ok=True)
        path.unlink()
        self._sizes.pop(path, None)


def trace_files(folder: Path) -> list[Path]:
    """By step."""
    return sorted(folder.glob("step-*.jsonl"), key=step_of)


def step_of(path: Path) -> int:
    return int(path.stem.removeprefix("step-"))


def index_of(path: Path) -> Path:
    return path.with_suffix(".index")


def read_index(path: Path) -> list[dict[str, Any]] | None:
    """A line a group of the file: kind, group, where (`at`), `bytes`, `shown` (bytes without token ids), `count`.

    None where there is none that covers the file, as a killed program leaves it.
    """
    try:
        entries = [json.loads(line) for line in index_of(path).read_text(encoding="utf-8").splitlines()]
    except (OSError, ValueError):
        return None
    covered = entries[-1]["at"] + entries[-1]["bytes"] if entries else 0
    return entries if covered == path.stat().st_size else None


def _size(path: Path) -> int:
    index = index_of(path)
    return path.stat().st_size + (index.stat().st_size if index.exists() else 0)


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    """Whole lines of a file that a kill may have cut."""
    with open(path, encoding="utf-8", errors="replace") as file:
        for line in file:
            if line.endswith("\n"):
                yield json.loads(line)


def _group_traces(group: Group, decode: Callable[[np.ndarray], str] | None) -> Iterator[dict[str, Any]]:
    prompt = decode(group.prompt.tokens_T) if decode else group.prompt.problem.prompt
    for trajectory in group.trajectories:
        yield _trace(group, prompt, trajectory)


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
        "reward": finite(verdict.reward),
        "correct": verdict.correct,
        "parts": {name: finite(value) for name, value in verdict.parts.items()},
        "error": verdict.error,
        "status": verdict.status.value,
        "stop": trajectory.stop,
        "tokens": len(trajectory.tokens_T),
        "versions": [int(versions.min()), int(versions.max())] if len(versions) else [],
        "mean_logprob": finite(float(np.mean(chosen, dtype=np.float64))) if len(chosen) else None,
        "prompt_ids": group.prompt.tokens_T.tolist(),
        "token_ids": trajectory.tokens_T.tolist(),
    }


def finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _json(line: dict[str, Any]) -> str:
    return json.dumps(line, ensure_ascii=False, allow_nan=False)
