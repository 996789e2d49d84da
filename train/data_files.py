"""Data files looked at before a run: readable, whole, with the named columns and with answers that can be judged."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lightning_cispo.configs.errors import ConfigError
from lightning_cispo.configs.schema import DataConfig
from lightning_cispo.rewards.code import check_answer
from lightning_cispo.rewards.math import check_golds

SUFFIXES = (".jsonl", ".json", ".parquet")
_HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")


def check_source(key: str, source: str, data: DataConfig) -> None:
    """Raises ConfigError naming `key`, the file and its line (JSON) or row (Parquet). Hub names aren't looked up."""
    path = Path(source)
    if not path.exists() and not source.endswith(SUFFIXES) and not source.startswith(("/", ".", "~")):
        if not _HUB_NAME.fullmatch(source):
            raise ConfigError(f"{key}={source}: neither a file nor the name of a hub dataset (owner/name)")
        return
    if not path.is_file():
        raise ConfigError(f"{key}={source}: {'not a file' if path.exists() else 'no such file'}")
    if not source.endswith(SUFFIXES):
        raise ConfigError(f"{key}={source}: must end in {', '.join(SUFFIXES)}")
    golds: dict[str, str] = {}  # by where they stand
    for where, row in _rows(f"{key}={source}", path, data):
        _check_row(where, row, data)
        golds[where] = _gold(where, str(row[data.answer_key]), data)
    if not golds:
        raise ConfigError(f"{key}={source}: has no rows")
    if data.verifier in ("math", "code"):
        texts = list(golds.values())
        wrong = check_golds(texts) if data.verifier == "math" else [check_answer(text) for text in texts]
        for where, problem in zip(golds, wrong, strict=True):
            if problem:
                raise ConfigError(f"{where}: {data.answer_key}: {problem}; see data.answer_pattern")


def _rows(name: str, path: Path, data: DataConfig) -> Iterator[tuple[str, Any]]:
    try:
        if path.suffix == ".parquet":
            yield from _parquet_rows(name, path, data)
        else:
            yield from _json_rows(name, path)
    except OSError as error:
        raise ConfigError(f"{name}: {error}") from None


def _json_rows(name: str, path: Path) -> Iterator[tuple[str, Any]]:
    with path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            where = f"{name}: line {number}"
            try:
                yield where, json.loads(line.decode())
            except json.JSONDecodeError as error:
                raise ConfigError(
                    f"{where}: not JSON, of which every line must hold one object: {error.msg} at column {error.colno}"
                ) from None
            except UnicodeDecodeError as error:
                raise ConfigError(f"{where}: not UTF-8: byte {line[error.start]:#04x} at {error.start + 1}") from None


def _parquet_rows(name: str, path: Path, data: DataConfig) -> Iterator[tuple[str, Any]]:
    from pyarrow import ArrowInvalid, parquet

    try:
        table = parquet.ParquetFile(path)
    except ArrowInvalid as error:
        raise ConfigError(f"{name}: not Parquet: {error}") from None
    names = table.schema_arrow.names
    columns = [column for column in (data.prompt_key, data.answer_key) if column in names]
    missing = {data.prompt_key, data.answer_key} - set(columns)
    if missing:
        raise ConfigError(f"{name}: no column {', '.join(sorted(missing))}; it has {', '.join(names)}")
    number = 0
    for batch in table.iter_batches(columns=columns):
        for row in batch.to_pylist():
            number += 1
            yield f"{name}: row {number}", row


def _check_row(where: str, row: Any, data: DataConfig) -> None:
    if not isinstance(row, dict):
        raise ConfigError(f"{where}: must be an object with the keys {data.prompt_key} and {data.answer_key}")
    for setting, column in (("data.prompt_key", data.prompt_key), ("data.answer_key", data.answer_key)):
        if column not in row:
            raise ConfigError(f"{where}: no {column!r} ({setting}); it has {', '.join(map(str, row))}")
        if row[column] is None or not str(row[column]).strip():
            raise ConfigError(f"{where}: {column!r} is empty")


def _gold(where: str, answer: str, data: DataConfig) -> str:
    if data.answer_pattern is None:
        return answer
    found = re.search(data.answer_pattern, answer)
    if not found:
        raise ConfigError(f"{where}: data.answer_pattern={data.answer_pattern} finds nothing in ...{answer[-60:]!r}")
    return found.group(1).strip()
