"""What `data.train` and `data.eval` name: files, globs, or one data set of the hub."""

from __future__ import annotations

import glob
import re
from collections.abc import Sequence
from pathlib import Path

from lightning_cispo.configs.schema import DataConfig
from lightning_cispo.rl.data.errors import DataError

SUFFIXES = (".jsonl", ".jsonl.gz", ".json", ".json.gz", ".parquet", ".csv", ".csv.gz")
_HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")


def files_of(names: Sequence[str]) -> list[Path] | None:
    """The files that the names and globs mean, in order, each once; None for a data set of the hub.

    Raises DataError for what is neither.
    """
    if len(names) == 1 and _is_hub_name(names[0]):
        return None
    found: dict[Path, None] = {}
    for name in names:
        for path in _expanded(name):
            found[path] = None
    return list(found)


def files_by_key(data: DataConfig) -> dict[str, list[Path] | None]:
    """The files of data.eval and data.train, none where it is unset, None for a data set of the hub.

    Raises DataError in one line that names the key.
    """
    found: dict[str, list[Path] | None] = {}
    for key, names in (("data.eval", data.eval), ("data.train", data.train)):
        try:
            found[key] = files_of(names) if names else []
        except DataError as error:
            raise DataError(f"{key}={error}") from None
    return found


def on_disk(data: DataConfig) -> bool:
    """Whether all data sets are files here, of which reading needs no network. Raises DataError for missing ones."""
    return None not in files_by_key(data).values()


def task_name(source: str | Path) -> str:
    """What metrics call the problems: the folder that a file lies in, or the data set."""
    name = Path(source).resolve().parent.name if isinstance(source, Path) or Path(source).exists() else source
    return re.sub(r"[\s<>]+", "-", name) or "file"


def _is_hub_name(name: str) -> bool:
    if Path(name).exists() or name.endswith(SUFFIXES) or name.startswith(("/", ".", "~")):
        return False
    if not glob.has_magic(name) and not _HUB_NAME.fullmatch(name):
        raise DataError(f"{name}: neither a file nor the name of a hub dataset (owner/name)")
    return not glob.has_magic(name)


def _expanded(name: str) -> list[Path]:
    path = Path(name).expanduser()
    paths = [path]
    if not path.exists():
        if not glob.has_magic(name):
            raise DataError(f"{name}: no such file")
        paths = sorted(map(Path, glob.glob(str(path), recursive=True)))
        if not paths:
            raise DataError(f"{name}: no file matches")
    for path in paths:
        if not path.is_file():
            raise DataError(f"{path}: not a file; of a folder name the files, such as {path}/*.jsonl")
        if not path.name.endswith(SUFFIXES):
            raise DataError(f"{path}: must end in {', '.join(SUFFIXES)}")
    return paths
