"""What a configuration trains and is evaluated on: read once a process, for preflight and run alike."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from lightning_cispo.configs.errors import first_line
from lightning_cispo.configs.schema import DataConfig
from lightning_cispo.rewards.code import check_answer
from lightning_cispo.rewards.math import check_golds
from lightning_cispo.rewards.verdict import Problem
from lightning_cispo.rl.data.errors import DataError
from lightning_cispo.rl.data.files import RawRow, read_file
from lightning_cispo.rl.data.names import files_by_key, task_name
from lightning_cispo.rl.data.overlap import Overlap
from lightning_cispo.rl.data.rows import Rows

# Golds are parsed by a library that takes milliseconds for each. Beyond so many rows one that it can't parse is found
# when it is drawn, and masks its samples.
MOST_GOLDS = 50_000
_CHUNK = 5_000
_SILENCE_S = 3.0


@dataclass
class Sources:
    """Rows to train on and to evaluate on, where there are files; `removed_N` marks training rows that both have."""

    train: Rows | None = None
    eval: Rows | None = None
    overlap: Overlap = field(default_factory=Overlap)
    removed_N: np.ndarray = field(default_factory=lambda: np.zeros(0, bool))

    def summary(self) -> list[str]:
        """How many rows there are, and how many are left out of training."""
        found = []
        if self.train is not None:
            left = f", {int(self.removed_N.sum()):,} of them left out as data.eval has them" if self.eval else ""
            found.append(f"train {len(self.train):,} rows{left}")
        if self.eval is not None:
            found.append(f"eval {len(self.eval):,} rows")
        return found


_opened: dict[str, Sources] = {}


def open_sources(data: DataConfig, progress: bool = False) -> Sources:
    """Read data.eval and data.train to their ends, check every row, and keep where each lies.

    The last ones opened are kept for the next call, while files and settings are the same. `progress` shows a bar for
    what takes seconds. Raises DataError in one line that names the key, the file and the row.
    """
    names = {"data.eval": data.eval or [], "data.train": data.train or []}
    files = files_by_key(data)
    identity = repr((data, [_stamp(path) for paths in files.values() for path in paths or []]))
    if identity not in _opened:
        _opened.clear()
        _opened[identity] = _read(data, names, files, progress)
    return _opened[identity]


def _read(
    data: DataConfig, names: dict[str, list[str]], files: dict[str, list[Path] | None], progress: bool
) -> Sources:
    found = Sources(overlap=Overlap(data.overlap_words))
    removed: list[bool] = []

    def keep_back(problem: Problem) -> None:
        found.overlap.add(problem.prompt)

    def mark(problem: Problem) -> None:
        removed.append(problem.prompt in found.overlap)

    if names["data.eval"]:
        found.eval = _rows(data, "data.eval", names, files, data.eval_split, keep_back, progress)
    if names["data.train"]:
        found.train = _rows(data, "data.train", names, files, data.train_split, mark, progress)
    found.removed_N = np.array(removed, bool)
    return found


def _rows(
    data: DataConfig,
    key: str,
    names: dict[str, list[str]],
    files: dict[str, list[Path] | None],
    split: str,
    look: Callable[[Problem], None],
    progress: bool,
) -> Rows:
    from tqdm import tqdm

    rows = Rows(data)
    parts: list[Iterator[tuple[str, Problem]]] = []
    paths = files[key]
    if paths is None:
        [name] = names[key]
        parts.append(rows.add(name, task_name(name), _hub_rows(name, data.subset, split), None))
    else:
        parts += [rows.add(str(path), task_name(path), read_file(path), path) for path in paths]
    golds: dict[str, str] = {}  # by where they stand
    shown = None if progress else True  # None: where somebody looks at a terminal
    bar = tqdm(desc=f"reading {key}", unit=" rows", disable=shown, delay=_SILENCE_S, mininterval=0.5, leave=False)
    with closing(bar):
        try:
            for where, problem in (found for part in parts for found in part):
                look(problem)
                if len(rows) <= MOST_GOLDS:
                    golds[where] = problem.answer
                if len(golds) == _CHUNK:
                    _check_golds(golds, data)
                    golds.clear()
                bar.update(1)
            _check_golds(golds, data)
        except DataError as error:
            raise DataError(f"{key}={error}") from None
    if not len(rows):
        raise DataError(f"{key}={', '.join(names[key])}: has no rows")
    return rows


def _check_golds(golds: dict[str, str], data: DataConfig) -> None:
    """Raises DataError at the first gold answer that the verifier can't judge by."""
    if not golds or data.verifier not in ("math", "code"):
        return
    texts = list(golds.values())
    wrong = check_golds(texts) if data.verifier == "math" else [check_answer(text) for text in texts]
    for where, said in zip(golds, wrong, strict=True):
        if said:
            raise DataError(f"{where}: {data.answer_key}: {said}; see data.answer_pattern")


def _hub_rows(name: str, subset: str | None, split: str) -> Iterator[RawRow]:
    """Rows of a split of a data set of the hub, which `datasets` downloads, converts and maps into memory."""
    from datasets import disable_progress_bars, load_dataset

    disable_progress_bars()
    try:
        rows: Any = load_dataset(name, subset, split=split)
    except Exception as error:  # of many kinds: no such data set, subset or split, no network, a script to be run
        said = first_line(error)
        raise DataError(f"{name}: neither a file here nor a data set of the hub: {said}") from error
    for number, row in enumerate(rows, 1):
        yield RawRow(f"row {number}", row)


def _stamp(path: Path) -> tuple[str, int, int]:
    status = path.stat()
    return str(path.resolve()), status.st_size, status.st_mtime_ns
