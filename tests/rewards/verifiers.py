"""Functions that misbehave in an isolated process, and a user's verifiers."""

from __future__ import annotations

import os
import subprocess
import time

from lightning_cispo.rewards.verdict import Problem, Response, Status, Verdict


def spin() -> None:
    while True:
        pass


def burn(processor: int, seconds: float) -> str:
    """Compute for so long on one processor."""
    os.sched_setaffinity(0, {processor})
    while time.process_time() < seconds:
        pass
    return "done"


def hold_the_lock() -> int:
    return 9 ** (9**9)  # one C call that never gives the interpreter lock back


def flood_memory() -> int:
    return len(bytearray(4 << 30))


def die() -> None:
    os._exit(3)


def flood_output() -> str:
    for _ in range(1000):
        os.write(1, b"x" * 65536)
    print('{"result": true}')
    return "quiet"


def not_json() -> object:
    return object()


def leave_a_child() -> int:
    return subprocess.Popen(["sleep", "600"]).pid


def leave_a_child_and_die() -> None:
    subprocess.Popen(["sleep", "600.25"])
    os._exit(0)


def modules() -> list[str]:
    import sys

    return list(sys.modules)


def by_length(problem: Problem, response: Response) -> float:
    return min(1.0, len(response.text) / len(problem.answer))


def contains(problem: Problem, response: Response) -> bool:
    return problem.answer in response.text


def slow_contains(problem: Problem, response: Response) -> bool:
    time.sleep(0.01)
    return problem.answer in response.text


def verdict(problem: Problem, response: Response) -> Verdict:
    return Verdict(0.25, False, Status.failed, {"style": 0.5}, "so so")


def masked(problem: Problem, response: Response) -> Verdict:
    return Verdict(None, False, Status.infra_error, {}, "the judge is down")


def raises(problem: Problem, response: Response) -> bool:
    raise KeyError("my own bug")


def returns_text(problem: Problem, response: Response) -> str:
    return "yes"


def sleeps(problem: Problem, response: Response) -> bool:
    time.sleep(600)
    return True


number = 5
