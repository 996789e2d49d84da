"""Rows of a data set by number. They stay on disk; of each, memory holds some twenty bytes."""

from __future__ import annotations

import json
import os
import tempfile
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import numpy as np

from lightning_cispo.configs.schema import DataConfig
from lightning_cispo.rewards.verdict import Problem
from lightning_cispo.rl.data.errors import DataError
from lightning_cispo.rl.data.files import RawRow, parse_row
from lightning_cispo.rl.data.overlap import key_of
from lightning_cispo.rl.data.problems import to_problem


class Rows:
    """Problems of files or of a hub's data set, in order; `keys_N` are their questions' (`overlap.key_of`), uint64.

    JSON lines are read where they lie. Of other files a copy is made, in a temporary file without a name.
    """

    def __init__(self, data: DataConfig) -> None:
        self.data = data
        self._files: list[IO[bytes]] = []
        self._tasks: list[str] = []
        self._file_of, self._offset, self._length = array("H"), array("q"), array("q")
        self._keys = array("Q")

    def add(self, name: str, task: str, raw_rows: Iterator[RawRow], path: Path | None) -> Iterator[tuple[str, Problem]]:
        """Index the rows of one file or data set; yields each once with its place, as it is read.

        Raises DataError for a row that can't be used.
        """
        file: IO[bytes] | None = None
        for raw in raw_rows:
            where = f"{name}: {raw.where}"
            try:
                problem = to_problem(raw.row, self.data, task)
            except DataError as error:
                raise DataError(f"{where}: {error}") from None
            if file is None:
                file = tempfile.TemporaryFile() if raw.span is None or path is None else path.open("rb")
                self._files.append(file)
                self._tasks.append(task)
            span = raw.span or (file.tell(), file.write(json.dumps(problem.row).encode()))
            self._file_of.append(len(self._files) - 1)
            self._offset.append(span[0])
            self._length.append(span[1])
            self._keys.append(key_of(problem.prompt))
            yield where, problem
        if file is not None:
            file.flush()

    @property
    def keys_N(self) -> np.ndarray:
        return np.frombuffer(self._keys, np.uint64) if len(self._keys) else np.zeros(0, np.uint64)

    def __len__(self) -> int:
        return len(self._keys)

    def __getitem__(self, index: int) -> Problem:
        """Raises DataError where the file has changed since it was indexed."""
        number = self._file_of[index]
        file = self._files[number]
        line = os.pread(file.fileno(), self._length[index], self._offset[index])
        try:
            return to_problem(parse_row(line), self.data, self._tasks[number])
        except DataError as error:
            raise DataError(f"{file.name}: changed while the run reads it: {error}") from None

    def __iter__(self) -> Iterator[Problem]:
        return map(self.__getitem__, range(len(self)))
