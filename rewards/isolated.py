"""A pool of killable processes for everything that reads a model's text with somebody else's code.

Each process has one manager thread here that starts it, hands it a call, keeps the deadline and kills it.
Nothing depends on signals or on the main thread, so the pool works from any thread of any process, a Ray
actor's included. Processes are started (not forked) on the first call that needs one.
"""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any, NamedTuple

from rewards.channel import Channel, ChannelClosed, DeadlinePassed

LOAD_SECONDS = 120.0  # start and imports of one process, on a busy machine
CALLS_PER_PROCESS = 5000  # libraries' caches grow; a fresh process costs half a second


class CallTimeout(Exception):
    """The call was still running at its deadline."""


class CallOutOfMemory(Exception):
    """The call wanted more than memory_mb."""


class CallRaised(Exception):
    """The called function, or the import of its module, raised; the text says what."""


class WorkerDied(Exception):
    """The process ended under the call, or the pool was closed before it was done."""


class _Job(NamedTuple):
    function: str
    args: Sequence[Any]
    preload: Sequence[str]
    future: Future[Any]


class IsolatedPool:
    """`processes` workers; every call has `timeout_s` seconds of wall time and `memory_mb` MB of address space
    above what its process takes when idle (Linux; elsewhere only the deadline holds)."""

    def __init__(self, processes: int = 1, timeout_s: float = 5.0, memory_mb: int = 1024):
        if processes < 1 or timeout_s <= 0 or memory_mb < 1:
            raise ValueError(f"processes={processes}, timeout_s={timeout_s}, memory_mb={memory_mb}: must be positive")
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._closed = False
        self._workers = [_Process(timeout_s, memory_mb) for _ in range(processes)]
        self._threads = [threading.Thread(target=self._manage, args=(w,), daemon=True) for w in self._workers]
        for thread in self._threads:
            thread.start()

    def submit(self, function: str, args: Sequence[Any], preload: Sequence[str] = ()) -> Future[Any]:
        """Run `function` ("module:name") on `args`, which must be JSON, as must be what it returns.

        The function's module and those in `preload` are imported before the deadline starts to count. The
        future raises CallTimeout, CallOutOfMemory, CallRaised or WorkerDied. Never waits.
        """
        future: Future[Any] = Future()
        with self._lock:
            if self._closed:
                raise RuntimeError("the pool is closed")
            self._jobs.put(_Job(function, args, preload, future))
        return future

    def depth(self) -> int:
        """Calls that no process has begun."""
        return self._jobs.qsize()

    def pids(self) -> list[int]:
        return [w.process.pid for w in self._workers if w.process is not None]

    def close(self) -> None:
        """Kill all processes and return when they are gone; calls not done raise WorkerDied. Idempotent."""
        with self._lock:
            self._closed = True
        for worker in self._workers:
            self._jobs.put(None)
            worker.retire()
        for thread in self._threads:
            thread.join()

    def __enter__(self) -> IsolatedPool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _manage(self, worker: _Process) -> None:
        while (job := self._jobs.get()) is not None:
            if not job.future.set_running_or_notify_cancel():
                continue
            try:
                result = worker.call(job)
            except Exception as error:  # reaches the caller through the future
                job.future.set_exception(error)
            else:
                job.future.set_result(result)
        worker.stop()


class _Process:
    """One process and its pipes. All but `retire` belongs to the manager thread.

    The thread that starts the process must outlive it: the parent-death signal goes by thread.
    """

    def __init__(self, timeout_s: float, memory_mb: int):
        self.timeout_s, self.memory_mb = timeout_s, memory_mb
        self.process: subprocess.Popen[bytes] | None = None
        self.calls = 0
        self._lock = threading.Lock()
        self._retired = False

    def call(self, job: _Job) -> Any:
        try:
            channel = self._ready()
            modules = [*job.preload, job.function.partition(":")[0]]
            channel.send({"modules": modules, "function": job.function, "args": list(job.args)}, LOAD_SECONDS)
            answer = channel.receive(LOAD_SECONDS)
            if not answer:
                answer = self._result(channel)
        except ChannelClosed as error:
            self.stop()
            raise WorkerDied(f"the isolated process ended: {error}") from error
        except DeadlinePassed as error:
            self.stop()
            raise WorkerDied("the isolated process didn't start") from error
        if "raised" in answer:
            raise CallRaised(answer["raised"])
        if "memory" in answer:
            self.stop()  # gives the memory back
            raise CallOutOfMemory(f"needed more than {self.memory_mb} MB")
        return answer["result"]

    def _result(self, channel: Channel) -> dict[str, Any]:
        try:
            answer = channel.receive(self.timeout_s)
        except DeadlinePassed as error:
            self.stop()
            raise CallTimeout(f"not done after {self.timeout_s:g} s") from error
        return answer

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
        root = str(Path(__file__).resolve().parent.parent)
        paths = [root, *(path or os.getcwd() for path in sys.path)]
        return subprocess.Popen(
            [sys.executable, "-m", "rewards.worker", str(self.memory_mb)],
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
