"""Writing a folder so that whoever looks sees the old one whole or the new one whole."""

from __future__ import annotations

import ctypes
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_AT_FDCWD, _RENAME_EXCHANGE = -100, 2


@contextmanager
def written_aside(folder: str | Path) -> Iterator[Path]:
    """A fresh folder beside `folder`, renamed over it when the block ends well, and removed when it raises.

    What a killed process left aside is removed by the next one. One writer at a time.
    """
    folder = Path(folder).resolve()
    aside = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    try:
        yield aside
        _swap(aside, folder)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _swap(new: Path, old: Path) -> None:
    """`new` takes the name `old`; a former `old` ends up, if anywhere, under the name of `new`."""
    if not old.exists():
        new.rename(old)
        return
    try:
        _exchange(new, old)
    except (AttributeError, OSError):  # not Linux, or a file system that cannot: two renames, not one
        former = old.with_name(f".{old.name}.former")
        shutil.rmtree(former, ignore_errors=True)
        old.rename(former)
        new.rename(old)
        shutil.rmtree(former)


def _exchange(one: Path, other: Path) -> None:
    """Both names change owners in a single step (Linux renameat2)."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.renameat2(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE):
        raise OSError(ctypes.get_errno(), f"cannot exchange {one} and {other}")
