"""Atomic writes: a reader finds the old file or folder whole, or the new one whole, also after a power loss."""

from __future__ import annotations

import ctypes
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_AT_FDCWD, _RENAME_EXCHANGE = -100, 2
_PARTIAL, _FORMER = ".partial", ".former"


@contextmanager
def written_aside(folder: str | Path) -> Iterator[Path]:
    """Yield a fresh folder beside `folder`; sync it to disk and rename it over `folder` when the block ends well.

    It is removed when the block raises. `clear_asides` removes what a killed process left. One writer at a time.
    """
    folder = Path(folder).resolve()
    aside = _beside(folder, _PARTIAL)
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    try:
        yield aside
        for path in (*aside.rglob("*"), aside):
            sync(path)
        _swap(aside, folder)
        sync(folder.parent)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def write_text_aside(path: str | Path, text: str, errors: str = "strict") -> None:
    """Replace a file's text as a whole, on disk when this returns."""
    path = Path(path).resolve()
    aside = _beside(path, _PARTIAL)
    try:
        with open(aside, "w", encoding="utf-8", errors=errors) as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)
    sync(path.parent)


def clear_asides(folder: Path) -> list[str]:
    """Remove from `folder` what writers left that were killed; returns the names that were being written.

    A folder that a killed writer had renamed to make room gets its name back.
    """
    for former in folder.glob(f".*{_FORMER}"):
        name = former.name[1 : -len(_FORMER)]
        if (folder / name).exists():
            shutil.rmtree(former, ignore_errors=True)
        else:
            former.rename(folder / name)
    found = sorted(folder.glob(f".*{_PARTIAL}"))
    for aside in found:
        if aside.is_dir():
            shutil.rmtree(aside, ignore_errors=True)
        else:
            aside.unlink(missing_ok=True)
    return [aside.name[1 : -len(_PARTIAL)] for aside in found]


def sync(path: Path) -> None:
    """Wait until a file's bytes, or a folder's names, are on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _beside(path: Path, ending: str) -> Path:
    return path.with_name(f".{path.name}{ending}")


def _swap(new: Path, old: Path) -> None:
    """Give `new` the name `old`; a former `old` ends up, if anywhere, under the name of `new`."""
    if not old.exists():
        new.rename(old)
        return
    try:
        _exchange(new, old)
    except (AttributeError, OSError):  # not Linux, or a file system that cannot: two renames, not one
        former = _beside(old, _FORMER)
        shutil.rmtree(former, ignore_errors=True)
        old.rename(former)
        new.rename(old)
        shutil.rmtree(former)


def _exchange(one: Path, other: Path) -> None:
    """Exchange two names in a single step (Linux renameat2)."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.renameat2(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE):
        raise OSError(ctypes.get_errno(), f"cannot exchange {one} and {other}")
