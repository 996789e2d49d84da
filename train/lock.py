"""One program at a time in a run folder: a second one would rewrite what the first one goes on writing."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TextIO

from lightning_cispo.configs.errors import ConfigError

_NAME = ".lock"


class FolderInUse(ConfigError):
    """Another program is at work in a run folder."""


@contextmanager
def sole_user(folder: Path) -> Iterator[None]:
    """Hold the folder's lock file, which tells who does, and remove it after the block.

    A program that was killed holds it no longer. Raises FolderInUse.
    """
    path = folder / _NAME
    with _locked(path) as lock:
        lock.seek(0)
        lock.truncate()
        json.dump({"pid": os.getpid(), "host": socket.gethostname(), "since": time.strftime("%F %T")}, lock)
        lock.flush()
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def in_use(folder: Path) -> bool:
    """Whether a program holds the folder now."""
    try:
        with _locked(folder / _NAME, create=False):
            return False
    except FolderInUse:
        return True
    except FileNotFoundError:
        return False


@contextmanager
def _locked(path: Path, create: bool = True) -> Iterator[TextIO]:
    while True:
        with open(path, "a+" if create else "r+", encoding="utf-8") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                lock.seek(0)
                holder = _holder(lock.read())
                if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
                    raise FolderInUse(_said(path.parent, holder)) from None
                if holder and _may_run(holder):  # a file system without locks
                    hint = "" if holder["host"] == socket.gethostname() else f"; if it has ended, remove {path}"
                    raise FolderInUse(f"{_said(path.parent, holder)}{hint}") from None
            with suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(lock.fileno()), path.stat()):
                    yield lock
                    return
        # Its holder has removed it between the opening and the locking: once more.


def _said(folder: Path, holder: dict[str, Any] | None) -> str:
    who = f" (process {holder['pid']} on {holder['host']}, since {holder['since']})" if holder else ""
    return f"{folder}: another program is at work in this run folder{who}"


def _holder(text: str) -> dict[str, Any] | None:
    try:
        return json.loads(text)
    except ValueError:
        return None


def _may_run(holder: dict[str, Any]) -> bool:
    """Whether a lock file's program may still run: of another machine nobody here knows."""
    return holder["host"] != socket.gethostname() or Path(f"/proc/{holder['pid']}").exists()
