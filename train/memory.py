"""Memory of the whole run, measured beside it: on this machine and, on a cluster, wherever its actors are."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

_EVERY_S = 10.0
_SHARE = 0.01  # of one core's time that measuring may take


def total_megabytes() -> float:
    """MiB held by this process and all its descendants, Ray's included; pages they share are counted once (PSS)."""
    return _megabytes([psutil.Process(), *psutil.Process().children(recursive=True)])


def _megabytes(processes: Iterable[psutil.Process]) -> float:
    total = 0
    for process in processes:
        try:
            text = Path(f"/proc/{process.pid}/smaps_rollup").read_text()
        except OSError:  # it ended meanwhile
            continue
        found = re.search(r"^Pss:\s+(\d+) kB", text, re.MULTILINE)
        total += int(found.group(1)) if found else 0
    return total / 1024


class MemorySampler:
    """`latest` is renewed in a thread of its own every ten seconds or, where measuring is slow, less often.

    A measurement takes 70 to 140 ms: as much as a short step.
    """

    def __init__(self, measure: Callable[[], float] = total_megabytes) -> None:
        self.latest: float | None = None
        self._measure, self._ended = measure, threading.Event()
        self._thread = threading.Thread(target=self._sample, name="memory", daemon=True)

    def __enter__(self) -> MemorySampler:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join(timeout=_EVERY_S)

    def _sample(self) -> None:
        while not self._ended.is_set():
            started = time.monotonic()
            try:
                self.latest = self._measure()
            except Exception:  # a machine that is going down must not take the run with it: the value stays as it was
                pass
            self._ended.wait(max(_EVERY_S, (time.monotonic() - started) / _SHARE))


class _Probe:
    """An actor on one node of a cluster."""

    def megabytes(self, pids: list[int]) -> float:
        """MiB of Ray's workers here that have one of these process ids, and of their descendants."""
        found: set[psutil.Process] = set()
        for pid in pids:
            try:
                process = psutil.Process(pid)
                if process.cmdline()[:1] and process.cmdline()[0].startswith("ray::"):
                    found |= {process, *process.children(recursive=True)}
            except psutil.Error:  # the id is another node's
                continue
        return _megabytes(found)


@contextmanager
def cluster_megabytes(pids: Callable[[], list[int]]) -> Iterator[Callable[[], float]]:
    """A measurement of this process's tree and, on every node, of the actors whose process ids `pids` gives."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    actor: Any = ray.remote(num_cpus=0)(_Probe)
    nodes = [node["NodeID"] for node in ray.nodes() if node["Alive"]]
    probes = [
        actor.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False)).remote() for node in nodes
    ]

    def measure() -> float:
        wanted = pids()
        return total_megabytes() + sum(ray.get([probe.megabytes.remote(wanted) for probe in probes], timeout=60))

    try:
        yield measure
    finally:
        for probe in probes:
            ray.kill(probe)
