"""Nothing outlives the program: a process of a few megabytes cleans up after it, also after `kill -9`.

Run as a script, `python cleanup.py FOLDER PID` is that process. It stands on the standard library alone.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_MARK = "CISPO_TEMP"  # in the environment of every process that the program starts
_PREFIX = "cispo-"
# Ray's socket /session_2026-11-30_12-00-00_000000_0000000/sockets/plasma_store must fit the 107 bytes of its address.
_MOST_FOLDER_BYTES = 107 - 64
_GRACE_S = 3.0  # for processes that end by themselves
_PATIENCE_S = 10.0

_open_folder: Path | None = None  # of this process's block


@contextmanager
def cleaned_up() -> Iterator[Path]:
    """Yield a folder for temporary files, also Python's and Ray's, of this process and those it starts.

    After the block, or once this process is gone however it ended, those processes are ended that still run, and the
    folder is removed. Blocks inside another one share its folder.
    """
    global _open_folder
    if _open_folder is not None:
        yield _open_folder
        return
    folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=_base()))
    # In a session of its own, so that no signal to the program's group reaches it. It waits for the end of its input.
    cleaner = subprocess.Popen(
        [sys.executable, "-I", "-S", __file__, str(folder), str(os.getpid())],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd="/",
        start_new_session=True,
    )
    before = {name: os.environ.get(name) for name in (_MARK, "TMPDIR")}
    os.environ.update({_MARK: str(folder), "TMPDIR": str(folder)})
    tempfile.tempdir, _open_folder = None, folder
    try:
        yield folder
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})
        tempfile.tempdir, _open_folder = None, None
        assert cleaner.stdin is not None
        cleaner.stdin.close()
        cleaner.wait(timeout=_GRACE_S + 2 * _PATIENCE_S)


def _base() -> str | None:
    """Where temporary files go; /tmp where that place's name is too long for sockets below it."""
    usual = tempfile.gettempdir()
    return usual if len(os.fsencode(usual)) + len(f"/{_PREFIX}01234567") <= _MOST_FOLDER_BYTES else "/tmp"


def _main(folder: str, program: int) -> None:
    """`program` is the process cleaned up after: it may well go on."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    while os.read(0, 4096):
        pass
    began, found = time.monotonic(), _family(folder, program, set())
    while found and time.monotonic() < began + _GRACE_S + _PATIENCE_S:
        if time.monotonic() > began + _GRACE_S:
            for pid, _ in found:
                try:
                    os.kill(pid, signal.SIGKILL)
                except OSError:
                    pass
        time.sleep(0.1)
        found = _family(folder, program, found)
    shutil.rmtree(folder, ignore_errors=True)


def _family(folder: str, program: int, known: set[tuple[int, str]]) -> set[tuple[int, str]]:
    """(id, start time) of the `known` processes that still run, of those that show the folder, and of their children.

    Some processes write their title over their environment, and lose their parent as it ends.
    """
    parents: dict[tuple[int, str], int] = {}
    found = set()
    for name in os.listdir("/proc"):
        if name.isdigit() and int(name) not in (os.getpid(), program):
            try:
                fields = Path(f"/proc/{name}/stat").read_text(errors="replace").rpartition(")")[2].split()
                process = int(name), fields[19]
                if fields[0] not in "ZX":
                    parents[process] = int(fields[1])
                    if process in known or _shows(f"/proc/{name}", folder):
                        found.add(process)
            except OSError:  # it ended meanwhile, or is another user's
                continue
    while more := {process for process, parent in parents.items() if parent in {pid for pid, _ in found}} - found:
        found |= more
    return found


def _shows(process: str, folder: str) -> bool:
    """Whether the folder is in a process's environment or command line, or holds a file that it has open."""
    if f"{_MARK}={folder}\0".encode() in Path(f"{process}/environ").read_bytes() + b"\0":
        return True
    if f"{folder}/".encode() in Path(f"{process}/cmdline").read_bytes():
        return True
    return any(os.readlink(f"{process}/fd/{number}").startswith(f"{folder}/") for number in os.listdir(f"{process}/fd"))


if __name__ == "__main__":
    _main(sys.argv[1], int(sys.argv[2]))
