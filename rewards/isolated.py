"""A pool of killable processes for everything that reads a model's text with somebody else's code.

Each process has one manager thread here that starts it, hands it a call, keeps the deadline and kills it.
Nothing depends on signals or on the main thread, so the pool works from any thread of any process, a Ray
actor's included. Processes are started (not forked) on the first call that needs one.
"""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any

from lightning_cispo.rewards.process import (
    CallOutOfMemory,
    CallRaised,
    CallStarved,
    CallTimeout,
    Job,
    Process,
    WorkerDied,
)

__all__ = ["CallOutOfMemory", "CallRaised", "CallStarved", "CallTimeout", "IsolatedPool", "WorkerDied"]


def cores() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class IsolatedPool:
    """Run calls in `processes` workers.

    Every call has `timeout_s` seconds, in which its process computes or sleeps, and `memory_mb` MB of address space
    above what the process takes when idle. What it waits for a processor does not count, so that a busy machine
    changes no verdict: see `sandbox.meter`. On other systems than Linux the clock and no memory counts.
    At most `max_queue` calls wait; the next one's caller waits for room.
    """

    def __init__(self, processes: int = 1, timeout_s: float = 5.0, memory_mb: int = 1024, max_queue: int = 10_000):
        if processes < 1 or timeout_s <= 0 or memory_mb < 1 or max_queue < 1:
            given = f"processes={processes}, timeout_s={timeout_s}, memory_mb={memory_mb}, max_queue={max_queue}"
            raise ValueError(f"{given}: must be positive")
        self._room = threading.Semaphore(max_queue)
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._closed = False
        self._workers = [Process(timeout_s, memory_mb) for _ in range(processes)]
        self._threads = [threading.Thread(target=self._manage, args=(w,), daemon=True) for w in self._workers]
        for thread in self._threads:
            thread.start()

    def submit(
        self, function: str, args: Sequence[Any], preload: Sequence[str] = (), timeout_s: float | None = None
    ) -> Future[Any]:
        """Run `function` ("module:name") on `args`, which must be JSON, as must be what it returns.

        The function's module and those in `preload` are imported before the deadline starts to count. The
        future raises CallTimeout, CallOutOfMemory, CallRaised, WorkerDied or, where the machine was too busy to tell,
        CallStarved. Waits only while the queue is full.
        `timeout_s` is this call's own deadline. Raises RuntimeError once closed.
        """
        future: Future[Any] = Future()
        self._room.acquire()
        with self._lock:
            if self._closed:
                self._room.release()
                raise RuntimeError("the pool is closed")
            self._jobs.put(Job(function, args, preload, future, timeout_s))
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

    def _manage(self, worker: Process) -> None:
        while (job := self._jobs.get()) is not None:
            self._room.release()
            if not job.future.set_running_or_notify_cancel():
                continue
            try:
                result = worker.call(job)
            except Exception as error:  # reaches the caller through the future
                job.future.set_exception(error)
            else:
                job.future.set_result(result)
        worker.stop()
