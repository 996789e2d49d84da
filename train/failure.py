"""How a program ends: after its last step, by a signal, or by an error that is told in one line, the last one."""

from __future__ import annotations

import errno
import re
import signal
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import ray

from lightning_cispo.configs.errors import refusals
from lightning_cispo.train.ended import RunEnded
from lightning_cispo.train.interrupt import StoppedAtOnce, interruption
from lightning_cispo.train.run import Run
from lightning_cispo.train.state import last_checkpoint

ERROR_LOG = "error.log"
_FULL = re.compile("no space left on device", re.IGNORECASE)


@contextmanager
def opened(run: Run, command: str) -> Iterator[Run]:
    """Open the run for the block; end the program where the block raises.

    `command` goes into the last line, which says what ended the run, why, and how to go on. Exit codes: 2 for what a
    user said wrongly, 128 + n for signal n, else 1.
    """
    try:
        with refusals(), run:
            yield run
    except RunEnded as error:
        _end(f"ended: {error}", run, command, code=1)
    except (KeyboardInterrupt, Exception) as error:
        if interrupt := interruption(error):
            number = interrupt.signal if isinstance(interrupt, StoppedAtOnce) else signal.SIGINT
            _end(f"stopped at once by {number.name}", run, command, code=128 + number)
        said, expected = explained(error, run.folder)
        details = _details(error)
        if not expected:
            print(details, file=sys.stderr)
        with suppress(OSError):
            (run.folder / ERROR_LOG).write_text(details + "\n", encoding="utf-8", errors="backslashreplace")
            said = f"{said} (details: {run.folder / ERROR_LOG})"
        _end(f"error: {said}", run, command, code=1)


def _end(said: str, run: Run, command: str, code: int) -> None:
    print(f"{said}{how_to_go_on(run, command)}", file=sys.stderr, flush=True)
    raise SystemExit(code) from None


def how_to_go_on(run: Run, command: str) -> str:
    """The end of a last line; nothing for a program that saves nothing."""
    if not run.trains:
        return ""
    found = last_checkpoint(run.folder)
    if found is None:
        return "; nothing was saved before that: start it again"
    return f"; to continue from {found.name}: {command} resume={run.folder}"


def explained(error: BaseException, folder: Path) -> tuple[str, bool]:
    """What went wrong, in one line, and whether the traceback would say no more than it."""
    for cause in _causes(error):
        if isinstance(cause, OSError) and cause.errno == errno.ENOSPC or _FULL.search(str(cause)):
            return f"no space left on {folder}: make room; older checkpoints are whole", True
        if isinstance(cause, ray.exceptions.RayActorError):
            said = f"{_one_line(error)}: " if error is not cause else ""
            return f"{said}{_death(cause)}", True
    if isinstance(error, ray.exceptions.RayTaskError):
        found = re.search(r"ray::([\w.]+)", str(error))
        where = f" in {found[1].removesuffix('()')}" if found else ""
        return f"{type(error.cause).__name__}{where}: {_one_line(error.cause)}", False
    return f"{type(error).__name__}: {_one_line(error)}", False


def _causes(error: BaseException) -> Iterator[BaseException]:
    found: BaseException | None = error
    while found is not None:
        yield found
        remote = getattr(found, "cause", None)  # of RayTaskError: what was raised over there
        found = found.__cause__ or (remote if isinstance(remote, BaseException) else None)


def _death(error: ray.exceptions.RayActorError) -> str:
    """Why an actor's process ended, out of Ray's paragraph."""
    text = str(error)
    name, pid = re.search(r"class_name: (\w+)", text), re.search(r"pid: (\d+)", text)
    who = f"process {pid[1]}{f' ({name[1]})' if name else ''}" if pid else "its process"
    if re.search(r"memory monitor|running low on memory|OutOfMemory", text):
        return f"{who} was ended by Ray as the machine ran short of memory"
    if "node" in text and "died" in text and "Worker exit" not in text:
        return f"{who} was lost with its machine"
    return f"{who} was killed or crashed; if the machine ran out of memory, its kernel log says so"


def _details(error: BaseException) -> str:
    """The traceback; of an error in another process that process's alone."""
    if isinstance(error, ray.exceptions.RayTaskError):
        return re.sub(r"\x1b\[\d+m", "", str(error))
    return "".join(traceback.format_exception(error)).rstrip()


def _one_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
