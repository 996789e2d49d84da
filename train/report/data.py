"""A run folder, read into what the page shows: curves, evaluations, a sample of the traces, the config."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from lightning_cispo.train.traces import read_index, trace_files
from lightning_cispo.train.tracking import read_metrics

MAX_POINTS = 2000  # lines of metrics a curve is drawn from; of more, evenly spaced ones
MAX_TRACE_BYTES = 5_000_000  # of embedded traces
MAX_TRACE_FILES = 200  # steps whose traces are embedded; of more, evenly spaced ones
MAX_MISSED = 4  # groups read in a row of which nothing fitted any more
MAX_TEXT = 20_000  # characters of a prompt or a response; the middle of a longer one is left out

TRACE_FIELDS = (
    "step kind task group sample question prompt response gold reward correct parts error status stop tokens versions "
    "mean_logprob"
).split()


def read_run(run_dir: Path) -> dict[str, Any]:
    """Everything the page holds, as JSON types. Raises FileNotFoundError where `run_dir` is no folder."""
    if not run_dir.is_dir():
        raise FileNotFoundError(f"{run_dir}: no such run folder")
    lines = read_metrics(run_dir)
    config_path = run_dir / "config.yaml"
    config_text = config_path.read_text(encoding="utf-8") if config_path.exists() else ""
    config = yaml.safe_load(config_text) or {}
    evaluated = [line for line in lines if "eval/problems" in line]
    warm_start = [line for line in lines if "warm_start/step" in line]
    name = config.get("name") or run_dir.resolve().name
    # As train.evaluate names its runs. Their lines have the step of the weights.
    evaluation_only = name.startswith("evaluate-") and bool(evaluated) and not any("time/step_s" in x for x in lines)
    judged = [line for line in evaluated if line.get("eval/pass@1") is not None]
    steps_done = max((line["step"] for line in lines), default=0)
    return {
        "name": name,
        "evaluation_only": evaluation_only,
        # As train.sft leaves a run, and as one is before its first step.
        "warm_start_only": not steps_done and bool(judged) and len(warm_start) > 0,
        "steps_planned": config.get("steps"),
        "steps_done": steps_done,
        "wall_s": max((line.get("time/wall_s") or 0.0 for line in lines), default=0.0),
        "tasks": [task["family"] for task in config.get("data", {}).get("tasks") or []],
        "curves": _columns([line for line in lines if "warm_start/step" not in line]),
        "warm_start": _columns(warm_start),
        "phases": _phases(lines, warm_start),
        "evaluations": evaluated if evaluation_only else judged,
        "traces": read_traces(run_dir / "traces"),
        "config": config_text,
    }


def _phases(lines: list[dict[str, Any]], warm_start: list[dict[str, Any]]) -> list[tuple[str, float]]:
    """(phase, seconds) over the whole run."""
    clock = [line.get("time/wall_s") or 0.0 for line in warm_start] or [0.0]
    phases = ("generate", "update", "publish", "evaluate", "checkpoint")
    spent = [(phase, sum(line.get(f"time/{phase}_s") or 0.0 for line in lines)) for phase in phases]
    return [("warm start", max(clock) - min(clock)), *spent]


def _columns(lines: list[dict[str, Any]]) -> dict[str, list[float | None]]:
    """Name -> one value a step, None where it was not measured. Lines of the same step become one."""
    steps: dict[Any, dict[str, Any]] = {}
    for line in lines:
        steps.setdefault((line["step"], line.get("warm_start/step")), {}).update(line)
    merged = list(steps.values())
    spaced = set(_spaced(len(merged), MAX_POINTS))
    # Evaluations are few and far between: thinning must not lose them.
    drawn = [line for i, line in enumerate(merged) if i in spaced or "eval/pass@1" in line]
    names = sorted({name for line in drawn for name in line})
    return {name: [_short(line.get(name)) for line in drawn] for name in names}


def _spaced(count: int, limit: int) -> list[int]:
    """At most `limit` indices below `count`, evenly spaced, first and last among them."""
    if count <= limit:
        return list(range(count))
    return sorted({round(i * (count - 1) / (limit - 1)) for i in range(limit)})


def _short(value: Any) -> Any:
    if not isinstance(value, float):
        return value
    return float(f"{value:.5g}") if math.isfinite(value) else None


def read_traces(folder: Path) -> dict[str, Any]:
    """The traces the page holds, and how many there are. Reads no others, where the files have their index.

    All of them while they fit. Otherwise: every step (of more than MAX_TRACE_FILES, evenly spaced ones) may take the
    same number of bytes; a step that needs less leaves the rest to the others. Within a step, groups are taken in an
    order drawn at random once and for all, training and evaluation in turn.
    """
    files = trace_files(folder)
    indices = [read_index(path) or _index(path) for path in files]
    total = sum(entry["count"] for index in indices for entry in index)
    chosen = _spaced(len(files), MAX_TRACE_FILES)
    level = _water_level([sum(map(_page_bytes, indices[i])) for i in chosen], MAX_TRACE_BYTES)
    rows: list[list[Any]] = []
    left = MAX_TRACE_BYTES
    for i in chosen:
        for size, row in _sample(files[i], indices[i], budget=min(level, left)):
            rows.append(row)
            left -= size
    return {"fields": TRACE_FIELDS, "rows": rows, "total": total, "files": len(files), "files_shown": len(chosen)}


def _index(path: Path) -> list[dict[str, Any]]:
    """Of a file that a killed program left without its index, or an earlier version's: made by reading it."""
    entries: list[dict[str, Any]] = []
    offset = 0
    with open(path, "rb") as file:
        for text in file:
            if text.endswith(b"\n"):
                line = json.loads(text.decode("utf-8", "replace"))
                group = {"kind": line["kind"], "group": line["group"]}
                if not entries or group.items() - entries[-1].items():
                    entries.append({**group, "at": offset, "bytes": 0, "shown": 0, "count": 0})
                entries[-1]["bytes"] += len(text)
                entries[-1]["shown"] += len(text)
                entries[-1]["count"] += 1
            offset += len(text)
    return entries


def _page_bytes(entry: dict[str, Any]) -> int:
    """About as many bytes as the page takes for a group: its long texts are cut."""
    return min(entry["shown"], entry["count"] * (2 * MAX_TEXT + 2000))


def _water_level(sizes: list[int], budget: int) -> int:
    """The largest cap for which the capped sizes add up to `budget` at most."""
    for taken, size in enumerate(sorted(sizes)):
        share = budget // (len(sizes) - taken)
        if size > share:
            return share
        budget -= size
    return max(sizes, default=0) + budget


def _sample(path: Path, index: list[dict[str, Any]], budget: int) -> Iterator[tuple[int, list[Any]]]:
    """(bytes in the page, row) of the traces that fit; reads groups until a few in a row have not fitted."""
    groups = list(index)
    random.Random(0).shuffle(groups)
    turn: dict[str, int] = {}
    ordered = []
    for entry in groups:
        turn[entry["kind"]] = turn.get(entry["kind"], 0) + 1
        ordered.append((turn[entry["kind"]], entry["kind"], entry))
    ordered.sort(key=lambda found: found[:2])
    missed = 0
    with open(path, "rb") as file:
        for _, _, entry in ordered:
            file.seek(entry["at"])
            missed += 1
            for text in file.read(entry["bytes"]).splitlines():
                trace = json.loads(text.decode("utf-8", "replace"))
                row = [_fit(trace.get(field)) for field in TRACE_FIELDS]
                size = len(embed(row).encode())
                if size <= budget:
                    budget, missed = budget - size, 0
                    yield size, row
            if missed == MAX_MISSED:
                return


def _fit(value: Any) -> Any:
    if isinstance(value, str) and len(value) > MAX_TEXT:
        half = MAX_TEXT // 2
        return f"{value[:half]}\n\n[… {len(value) - 2 * half:,} characters left out …]\n\n{value[-half:]}"
    if isinstance(value, dict):
        return {key: _short(item) for key, item in value.items()}
    return _short(value)


def embed(value: Any) -> str:
    """JSON that is inert inside a <script> element: no `<`, so no tag can open or close there."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    # A lone surrogate cannot be encoded; its JSON escape can.
    return text.encode("utf-8", errors="backslashreplace").decode("utf-8")
