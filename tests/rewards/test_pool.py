"""The pool under many callers and hostile calls: nothing lost, nothing leaked, nobody waiting for ever."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import psutil
import pytest

from lightning_cispo.rewards.grader import Grader
from lightning_cispo.rewards.isolated import CallOutOfMemory, CallRaised, CallTimeout, IsolatedPool, WorkerDied
from lightning_cispo.rewards.verdict import Problem, Response
from tests.rewards.processes import alive, eventually

BAD = "tests.rewards.verifiers"
HOSTILE: dict[str, type[Exception]] = {
    "no_such_function": CallRaised,
    "not_json": CallRaised,
    "flood_memory": CallOutOfMemory,
    "die": WorkerDied,
    "spin": CallTimeout,
}


def test_ten_thousand_calls_with_five_percent_hostile_ones() -> None:
    """From eight threads through a short queue. Half of the hostile calls cost a process."""
    kinds = [*HOSTILE, *["no_such_function"] * 5]
    me = psutil.Process()
    files, children = me.num_fds(), set(me.children(recursive=True))

    def one(i: int) -> Any:
        if i % 20:
            call: Future[Any] = pool.submit("operator:neg", [i])
        else:
            kind = kinds[i // 20 % len(kinds)]
            call = pool.submit(f"{BAD}:{kind}", [], timeout_s=0.1 if kind == "spin" else None)
        return call.exception() or call.result()

    with IsolatedPool(4, timeout_s=60.0, memory_mb=256, max_queue=4) as pool, ThreadPoolExecutor(8) as threads:
        found = list(threads.map(one, range(1000)))
        before = me.memory_info().rss
        found += list(threads.map(one, range(1000, 10_000)))
        grown = me.memory_info().rss - before
        assert len(pool.pids()) <= 4
    for i, result in enumerate(found):
        if i % 20:
            assert result == -i
        else:
            assert isinstance(result, HOSTILE[kinds[i // 20 % len(kinds)]]), (i, result)
    assert grown < 16 << 20
    assert me.num_fds() <= files
    assert eventually(lambda: set(me.children(recursive=True)) <= children)


def test_a_full_queue_makes_callers_wait_and_close_lets_them_go() -> None:
    pool = IsolatedPool(1, timeout_s=600.0, max_queue=2)
    running = pool.submit(f"{BAD}:spin", [])
    assert eventually(lambda: pool.depth() == 0)
    waiting = [pool.submit("operator:neg", [i]) for i in range(2)]
    found: list[Any] = []

    def late() -> None:
        try:
            found.append(pool.submit("operator:neg", [3]).exception())
        except RuntimeError as error:
            found.append(error)

    threads = [threading.Thread(target=late) for _ in range(3)]
    for thread in threads:
        thread.start()
    threads[0].join(0.2)
    assert threads[0].is_alive() and pool.depth() == 2
    pool.close()
    for thread in threads:
        thread.join(30)
    assert len(found) == 3 and all(isinstance(error, (RuntimeError, WorkerDied)) for error in found)
    assert all(isinstance(call.exception(), WorkerDied) for call in [running, *waiting])


def test_from_asyncio() -> None:
    texts = [str(i % 7) for i in range(40)]

    async def all_of_them() -> list[bool]:
        ticks = 0

        async def tick() -> None:
            nonlocal ticks
            while True:
                ticks += 1
                await asyncio.sleep(0.005)

        clock = asyncio.create_task(tick())
        problem = Problem("?", "3", f"{BAD}:slow_contains", "t")
        verdicts = await asyncio.gather(*(grader.grade_async(problem, Response(t, 1, "eos", 9)) for t in texts))
        clock.cancel()
        assert ticks > 10  # the loop went on
        return [verdict.correct for verdict in verdicts]

    with Grader(processes=2, max_queue=3) as grader:
        assert asyncio.run(all_of_them()) == [text == "3" for text in texts]


def test_from_the_threads_of_a_ray_actor() -> None:
    ray = pytest.importorskip("ray")
    answers = ["x^2+2x+1", "9^{9^{9^9}}", "(x+1)(x+1)", r"\sqrt{2}", "5"]
    ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False, object_store_memory=100 << 20)
    try:
        actor = ray.remote(_Judge).options(max_concurrency=4, num_cpus=1).remote()
        found = ray.get([actor.judge.remote(answer) for answer in answers], timeout=120)
        pids = ray.get(actor.pids.remote(), timeout=60)
        assert not any(main for _, main in found)  # none of them was the actor's main thread
        assert [correct for correct, _ in found] == [True, False, True, False, False]
        ray.kill(actor)
        assert pids and eventually(lambda: not any(map(alive, pids)))
    finally:
        ray.shutdown()


def _correct(grader: Grader, answer: str) -> bool:
    return grader.grade(Problem("?", "(x+1)^2", "math", "t"), Response(rf"\boxed{{{answer}}}", 1, "eos", 9)).correct


class _Judge:
    def __init__(self) -> None:
        self.grader = Grader(processes=2, timeout_s=2.0)

    def judge(self, answer: str) -> tuple[bool, bool]:
        return _correct(self.grader, answer), threading.current_thread() is threading.main_thread()

    def pids(self) -> list[int]:
        return self.grader._pool.pids()
