"""The pool: whatever happens in a call costs that call, and nothing is left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from lightning_cispo.rewards import process
from lightning_cispo.rewards.isolated import (
    CallOutOfMemory,
    CallRaised,
    CallStarved,
    CallTimeout,
    IsolatedPool,
    WorkerDied,
)
from lightning_cispo.rewards.sandbox import meter
from lightning_cispo.rewards.verdict import masked
from tests.rewards.processes import alive, eventually

BAD = "tests.rewards.verifiers"
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def pool() -> Iterator[IsolatedPool]:
    with IsolatedPool(1, timeout_s=2.0, memory_mb=256) as pool:
        yield pool


def still_works(pool: IsolatedPool) -> bool:
    return pool.submit("operator:add", [1, 2]).result() == 3


@pytest.mark.parametrize(
    ("function", "error"),
    [
        ("spin", CallTimeout),
        ("hold_the_lock", CallTimeout),
        ("flood_memory", CallOutOfMemory),
        ("die", WorkerDied),
        ("not_json", CallRaised),
        ("no_such_function", CallRaised),
    ],
)
def test_a_bad_call_costs_only_itself(pool: IsolatedPool, function: str, error: type[Exception]) -> None:
    futures = [pool.submit("operator:add", [1, 2]), pool.submit(f"{BAD}:{function}", [])]
    futures.append(pool.submit("operator:add", [3, 4]))
    assert isinstance(futures[1].exception(), error)
    assert (futures[0].result(), futures[2].result()) == (3, 7)


def test_a_module_that_cannot_be_imported_says_so(pool: IsolatedPool) -> None:
    with pytest.raises(CallRaised, match="no_such_module_at_all"):
        pool.submit("no_such_module_at_all:f", []).result()
    assert still_works(pool)


def test_printing_does_not_reach_the_protocol(pool: IsolatedPool) -> None:
    assert pool.submit(f"{BAD}:flood_output", []).result() == "quiet"
    assert still_works(pool)


def test_a_large_argument_and_odd_characters_survive(pool: IsolatedPool) -> None:
    text = "\ud800é\x00" * 300_000  # far more than a pipe holds
    assert pool.submit("operator:concat", [text, "!"]).result() == text + "!"


def test_a_stopped_process_is_replaced(pool: IsolatedPool, monkeypatch: pytest.MonkeyPatch) -> None:
    assert still_works(pool)
    pid = pool.pids()[0]
    os.kill(pid, signal.SIGSTOP)
    monkeypatch.setattr(process, "LOAD_SECONDS", 3.0)
    text = "x" * 1_000_000  # more than a pipe holds: to write it somebody must read
    assert pool.submit("operator:concat", [text, "y"]).result() == text + "y"
    assert pool.pids() != [pid]
    assert not alive(pid)


def test_a_process_killed_while_idle_costs_nothing(pool: IsolatedPool) -> None:
    assert still_works(pool)
    pid = pool.pids()[0]
    os.kill(pid, signal.SIGKILL)
    assert still_works(pool)
    assert pool.pids() != [pid]


def test_interrupt_is_the_parents_business(pool: IsolatedPool) -> None:
    assert still_works(pool)
    pid = pool.pids()[0]
    os.kill(pid, signal.SIGINT)
    assert still_works(pool)
    assert pool.pids() == [pid]


def test_processes_are_recycled(pool: IsolatedPool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "CALLS_PER_PROCESS", 3)
    pids = [pool.submit("os:getpid", []).result() for _ in range(7)]
    assert [pids.count(pid) for pid in dict.fromkeys(pids)] == [3, 3, 1]


def test_many_threads_lose_nothing() -> None:
    with IsolatedPool(2, timeout_s=30.0) as pool:

        def one(i: int) -> object:
            call: Future[object] = pool.submit(f"{BAD}:die", []) if i % 50 == 7 else pool.submit("operator:neg", [i])
            return call.exception() or call.result()

        with ThreadPoolExecutor(8) as threads:
            found = list(threads.map(one, range(400)))
    for i, result in enumerate(found):
        assert isinstance(result, WorkerDied) if i % 50 == 7 else result == -i


def test_a_pool_can_live_in_another_thread() -> None:
    found: list[object] = []

    def life() -> None:
        with IsolatedPool(1, timeout_s=2.0) as pool:
            found.append(pool.submit("operator:add", [1, 2]).result())
            inner = threading.Thread(target=lambda: found.append(pool.submit(f"{BAD}:spin", []).exception()))
            inner.start()
            inner.join()

    thread = threading.Thread(target=life)
    thread.start()
    thread.join()
    assert found[0] == 3
    assert isinstance(found[1], CallTimeout)


def test_no_process_starts_before_it_is_needed(pool: IsolatedPool) -> None:
    assert pool.pids() == []


def test_an_idle_process_is_light(pool: IsolatedPool) -> None:
    loaded = set(pool.submit(f"{BAD}:modules", []).result())
    assert not loaded & {"torch", "ray", "sympy", "math_verify", "reasoning_gym", "numpy"}


def test_close_leaves_no_process_and_no_caller_waiting() -> None:
    pool = IsolatedPool(2, timeout_s=600.0)
    running = [pool.submit(f"{BAD}:spin", []) for _ in range(2)]
    grandchild = IsolatedPool(1)
    sleeper = grandchild.submit(f"{BAD}:leave_a_child", []).result()
    waiting = pool.submit("operator:add", [1, 2])
    assert eventually(lambda: len(pool.pids()) == 2)
    pids = pool.pids()
    pool.close()
    grandchild.close()
    pool.close()
    assert all(isinstance(future.exception(), WorkerDied) for future in [*running, waiting])
    assert not any(map(alive, pids))
    assert eventually(lambda: not alive(sleeper))
    with pytest.raises(RuntimeError, match="closed"):
        pool.submit("operator:add", [1, 2])


def test_what_a_dead_process_started_is_killed_with_it(pool: IsolatedPool) -> None:
    with pytest.raises(WorkerDied):
        pool.submit(f"{BAD}:leave_a_child_and_die", []).result()

    def sleeping() -> bool:
        commands = (path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline") if path.exists())
        return any(command == b"sleep\x00600.25\x00" for command in commands)

    assert eventually(lambda: not sleeping())


@pytest.mark.parametrize("call", ["('operator:add', [1, 2])", f"('{BAD}:hold_the_lock', [])"])
def test_a_killed_parent_leaves_no_process(call: str) -> None:
    program = f"""
import time
from lightning_cispo.rewards.isolated import IsolatedPool
pool = IsolatedPool(1, timeout_s=600.0)
pool.submit("operator:add", [1, 2]).result()
pool.submit{call}
time.sleep(0.3)
print(*pool.pids(), flush=True)
time.sleep(600)
"""
    parent = subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert parent.stdout
    pids = [int(pid) for pid in parent.stdout.readline().split()]
    assert len(pids) == 1 and all(map(alive, pids))
    parent.kill()
    parent.wait()
    parent.stdout.close()
    assert eventually(lambda: not any(map(alive, pids)))


@pytest.fixture
def crowded() -> Iterator[int]:
    """A processor that six others compute on all the time."""
    processor = min(os.sched_getaffinity(0))
    program = f"import os; os.sched_setaffinity(0, {{{processor}}}); print(flush=True)\nwhile True: pass"
    hogs = [subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) for _ in range(6)]
    for hog in hogs:
        assert hog.stdout
        hog.stdout.readline()
    yield processor
    for hog in hogs:
        hog.kill()
        hog.communicate()


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the clock counts")
def test_waiting_for_a_processor_does_not_count(crowded: int) -> None:
    """A second of computing takes seven by the clock."""
    with IsolatedPool(1, timeout_s=2.0) as pool:
        assert pool.submit(f"{BAD}:burn", [crowded, 1.0]).result() == "done"
        assert isinstance(pool.submit(f"{BAD}:burn", [crowded, 1000.0]).exception(), CallTimeout)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the clock counts")
def test_a_call_that_got_too_little_of_the_processor_is_masked(crowded: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(meter, "backstop", lambda seconds: seconds)
    with IsolatedPool(1, timeout_s=1.0) as pool:
        starved = pool.submit(f"{BAD}:burn", [crowded, 1000.0]).exception()
    assert isinstance(starved, CallStarved)
    verdict = masked(starved)
    assert verdict.reward is None and "too little processor time" in verdict.error


@pytest.mark.parametrize("bad", [{"processes": 0}, {"timeout_s": 0.0}, {"memory_mb": 0}])
def test_impossible_limits_are_refused(bad: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must be positive"):
        IsolatedPool(**bad)  # type: ignore[arg-type]
