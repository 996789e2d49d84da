"""One killable process as its manager thread sees it: started when needed, held to its deadline, replaced."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any, NamedTuple

from lightning_cispo.rewards.channel import Channel, ChannelClosed, DeadlinePassed
from lightning_cispo.rewards.sandbox.meter import Meter, Starved, backstop

LOAD_SECONDS = 120.0  # start and imports of one process, on a busy machine
# The caller's search path as it is: `-c` and `-m` would put the working directory before the standard library.
_START = (
    "import sys; sys.path[:1] == [''] and sys.path.pop(0); from lightning_cispo.rewards import worker; "
    "worker.main(int(sys.argv[1]))"
)
CALLS_PER_PROCESS = 5000  # libraries' caches grow; a fresh process costs half a second


class CallTimeout(Exception):
    """The call was still running at its deadline."""


class CallStarved(Exception):
    """The machine was too busy to judge the call."""


class CallOutOfMemory(Exception):
    """The call wanted more than memory_mb."""


class CallRaised(Exception):
    """The called function, or the import of its module, raised; the text says what."""


class WorkerDied(Exception):
    """The process ended under the call, or the pool was closed before it was done."""


class Job(NamedTuple):
    function: str
    args: Sequence[Any]
    preload: Sequence[str]
    future: Future[Any]
    timeout_s: float | None = None


class Process:
    """One process and its pipes. All but `retire` belongs to the manager thread.

    The thread that starts the process must outlive it: the parent-death signal goes by thread.
    """

    def __init__(self, timeout_s: float, memory_mb: int):
        self.timeout_s, self.memory_mb = timeout_s, memory_mb
        self.process: subprocess.Popen[bytes] | None = None
        self.calls = 0
        self._lock = threading.Lock()
        self._retired = False

    def call(self, job: Job) -> Any:
        reused = self.process is not None
        try:
            channel, answer = self._begin(job)
        except WorkerDied:
            if not reused:
                raise
            channel, answer = self._begin(job)  # it died idle, not of this call
        if not answer:
            answer = self._result(channel, job.timeout_s or self.timeout_s)
        if "raised" in answer:
            raise CallRaised(answer["raised"])
        if "memory" in answer:
            self.stop()  # gives the memory back
            raise CallOutOfMemory(f"needed more than {self.memory_mb} MB")
        return answer["result"]

    def _begin(self, job: Job) -> tuple[Channel, dict[str, Any]]:
        """Hands the call over; returns once its modules are imported, with what their import raised, if it did."""
        channel = self._ready()
        modules = [*job.preload, job.function.partition(":")[0]]
        try:
            channel.send({"modules": modules, "function": job.function, "args": list(job.args)}, LOAD_SECONDS)
            return channel, channel.receive(LOAD_SECONDS)
        except (ChannelClosed, DeadlinePassed) as error:
            self.stop()
            raise WorkerDied(f"the isolated process didn't take the call: {error}") from error

    def _result(self, channel: Channel, timeout_s: float) -> dict[str, Any]:
        """Wait for the answer. What the process waits for a processor does not count against the deadline."""
        assert self.process is not None
        handle = _handle(self.process)
        try:
            meter = Meter(timeout_s, handle)
            with meter.awaiting():
                while left := meter.left():
                    if channel.ready(left):
                        return channel.receive(backstop(timeout_s))
        except (Starved, DeadlinePassed) as error:
            self.stop()
            raise CallStarved(f"too little processor time to judge: {error}") from error
        except ChannelClosed as error:
            self.stop()
            raise WorkerDied(f"the isolated process ended: {error}") from error
        finally:
            if handle >= 0:
                os.close(handle)
        self.stop()
        raise CallTimeout(f"not done after {timeout_s:g} s")

    def _ready(self) -> Channel:
        if self.process is not None and (_ended(self.process) or self.calls >= CALLS_PER_PROCESS):
            self.stop()
        with self._lock:
            if self._retired:
                raise WorkerDied("the pool was closed")
            if self.process is None:
                self.process, self.calls = self._start(), 0
        self.calls += 1
        assert self.process.stdin and self.process.stdout
        return Channel(self.process.stdout.fileno(), self.process.stdin.fileno())

    def _start(self) -> subprocess.Popen[bytes]:
        paths = [path or os.getcwd() for path in sys.path]
        return subprocess.Popen(
            [sys.executable, "-c", _START, str(self.memory_mb)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            start_new_session=True,  # a group of its own: whatever it starts is killed with it
            env={**os.environ, "PYTHONPATH": os.pathsep.join(dict.fromkeys(paths)), "OMP_NUM_THREADS": "1"},
        )

    def retire(self) -> None:
        """From another thread: no new process, and an end to the one that runs."""
        with self._lock:
            self._retired = True
            if self.process is not None:
                _kill(self.process)

    def stop(self) -> None:
        with self._lock:
            if self.process is None:
                return
            _kill(self.process)
            self.process.wait()
            assert self.process.stdin and self.process.stdout
            self.process.stdin.close()
            self.process.stdout.close()
            self.process = None


def _handle(process: subprocess.Popen[bytes]) -> int:
    """A descriptor of the process, or -1 where the system has none."""
    try:
        return os.pidfd_open(process.pid)
    except (AttributeError, OSError):
        return -1


def _ended(process: subprocess.Popen[bytes]) -> bool:
    # Without reaping it: _kill still needs the group's id.
    return os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def _kill(process: subprocess.Popen[bytes]) -> None:
    # Also after its end: what it started may still run in its group, whose id stays taken until we have waited.
    if process.returncode is None:
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
