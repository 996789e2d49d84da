"""Programs as answers: right is what `python3 solution.py < input` prints."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from lightning_cispo.rewards.grader import Grader
from lightning_cispo.rewards.sandbox import box as boxes
from lightning_cispo.rewards.sandbox.levels import Isolation
from lightning_cispo.rewards.verdict import Status
from tests.rewards.coding import ECHO, ask

FAST_IO = """
import os, sys
from io import BytesIO, IOBase
BUFSIZE = 8192
class FastIO(IOBase):
    newlines = 0
    def __init__(self, file):
        self._fd = file.fileno()
        self.buffer = BytesIO()
        self.writable = "x" in file.mode or "r" not in file.mode
        self.write = self.buffer.write if self.writable else None
    def readline(self):
        while self.newlines == 0:
            b = os.read(self._fd, max(os.fstat(self._fd).st_size, BUFSIZE))
            self.newlines = b.count(b"\\n") + (not b)
            ptr = self.buffer.tell()
            self.buffer.seek(0, 2), self.buffer.write(b), self.buffer.seek(ptr)
        self.newlines -= 1
        return self.buffer.readline()
    def flush(self):
        if self.writable:
            os.write(self._fd, self.buffer.getvalue())
            self.buffer.truncate(0), self.buffer.seek(0)
class IOWrapper(IOBase):
    def __init__(self, file):
        self.buffer = FastIO(file)
        self.flush = self.buffer.flush
        self.writable = self.buffer.writable
        self.write = lambda s: self.buffer.write(s.encode("ascii"))
        self.readline = lambda: self.buffer.readline().decode("ascii")
sys.stdin, sys.stdout = IOWrapper(sys.stdin), IOWrapper(sys.stdout)
input = lambda: sys.stdin.readline().rstrip("\\r\\n")
a, b = map(int, input().split())
print(a + b)
"""
SUM = "sum(map(int, input().split()))"
RIGHT = {
    "exit": f"print({SUM}); exit()",
    "quit": f"print({SUM}); quit(0)",
    "sys.exit with None": f"import sys; print({SUM}); sys.exit(None)",
    "os._exit after a flush": f"import os; print({SUM}, flush=True); os._exit(0)",
    "an end in a function": f"def main():\n    print({SUM})\n    raise SystemExit\nmain()\nprint('no')",
    "fast-IO header": FAST_IO,
    "standard output replaced by a buffer": f"import io, os, sys\nsys.stdout = io.BytesIO()\n"
    f"sys.stdout.write(b'%d' % {SUM})\nos.write(1, sys.stdout.getvalue())\nsys.stdout = sys.__stdout__",
    "standard output reopened": f"import os, sys\nsys.stdout = os.fdopen(1, 'w', 1 << 20)\nprint({SUM})",
    "standard output detached": f"import io, sys\nout = io.TextIOWrapper(sys.stdout.detach(), write_through=False)\n"
    f"sys.stdout = out\nprint({SUM})",
    "standard output collected": f"import sys, atexit, io\nb = io.StringIO()\nsys.stdout = b\n"
    f"atexit.register(lambda: sys.__stdout__.write(b.getvalue()))\nprint({SUM})",
    "output in atexit": f"import atexit\natexit.register(print, {SUM})",
    "output of a destructor": f"class A:\n    def __del__(self): print(self.s)\na = A()\na.s = {SUM}",
    "output in excepthook": f"import sys\ns = {SUM}\nsys.exit = None\ntry: 1 / 0\nexcept Exception: print(s)",
    "a thread not joined": "import threading, time\ndef f():\n    time.sleep(0.05)\n    print(" + SUM + ")\n"
    "threading.Thread(target=f).start()",
    "a larger stack in a thread": "import sys, threading\nsys.setrecursionlimit(10**6)\nthreading.stack_size(1 << 26)\n"
    f"def f(n): return 0 if n == 0 else f(n - 1)\ndef main():\n    f(20000)\n    print({SUM})\n"
    "threading.Thread(target=main).start()",
    "a pool of threads": "from concurrent.futures import ThreadPoolExecutor\nwith ThreadPoolExecutor(2) as p:\n"
    "    print(sum(p.map(int, input().split())))",
    "open('/dev/stdin')": "print(sum(map(int, open('/dev/stdin').read().split())))",
    "open(0)": "print(sum(map(int, open(0).read().split())))",
    "open(0) after a look": "import os\nassert os.read(0, 0) == b''\n"
    "print(sum(map(int, open(0, 'rb').read().split())))",
    "the input's size": "import os\nprint(sum(map(int, os.read(0, os.fstat(0).st_size).split())))",
    "the input from its beginning": "import sys\na = sys.stdin.read()\nsys.stdin.seek(0)\n"
    "assert sys.stdin.read() == a\nprint(sum(map(int, a.split())))",
    "the input mapped": "import mmap\nm = mmap.mmap(0, 0, access=mmap.ACCESS_READ)\n"
    "print(sum(map(int, m.read().split())))",
    "sys.stdin.buffer": "import sys\nprint(sum(map(int, sys.stdin.buffer.read().split())))",
    "lines of sys.stdin": "import sys\nfor line in sys.stdin: print(sum(map(int, line.split())))",
    "fileinput": "import fileinput\nfor line in fileinput.input(): print(sum(map(int, line.split())))",
    "open('/dev/stdout')": f"s = {SUM}\nwith open('/dev/stdout', 'w') as f: f.write(str(s))",
    "sys.stdout.buffer": f"import sys\nsys.stdout.buffer.write(b'%d' % {SUM})",
    "asyncio.run": f"import asyncio\nasync def main():\n    await asyncio.sleep(0.01)\n    print({SUM})\n"
    "asyncio.run(main())",
    "asyncio with threads": "import asyncio\nasync def main():\n"
    "    print(sum(map(int, (await asyncio.to_thread(input)).split())))\n"
    "asyncio.run(main())",
    "__file__": f"import os\nos.chdir(os.path.dirname(os.path.abspath(__file__)))\nprint({SUM})",
    "its source": f"import inspect\ndef f(): return {SUM}\nassert 'def f' in inspect.getsource(f)\nprint(f())",
    "the main guard": f"if __name__ == '__main__':\n    print({SUM})",
    "sys.argv": f"import sys\nassert len(sys.argv) == 1 and sys.argv[0].endswith('.py')\nprint({SUM})",
    "import of __main__": f"import __main__\nx = {SUM}\nprint(__main__.x)",
    "pickle of an own class": f"import pickle\nclass A: pass\npickle.loads(pickle.dumps(A()))\nprint({SUM})",
    "dataclass with annotations": "from __future__ import annotations\nfrom dataclasses import dataclass\n@dataclass\n"
    f"class A:\n    x: int\nprint(A({SUM}).x)",
    "messages beside": f"import sys, warnings\nprint('a', file=sys.stderr)\nwarnings.warn('b')\nprint({SUM})",
    "errors to nowhere": f"import os, sys\nsys.stderr = open(os.devnull, 'w')\nprint({SUM})",
    "an exception in a thread": "import threading\nthreading.Thread(target=lambda: 1 / 0).start()\n" + f"print({SUM})",
    "recursion": f"import sys\nsys.setrecursionlimit(10**6)\ndef f(n): return 0 if n == 0 else f(n - 1)\n"
    f"f(50000)\nprint({SUM})",
    "a raised limit of the stack": "import resource\n"
    f"resource.setrlimit(resource.RLIMIT_STACK, (1 << 26, -1))\nprint({SUM})",
}  # fmt: skip
WRONG = {
    "nothing": "pass",
    "an end at once": "exit()",
    "code 1": f"print({SUM}); exit(1)",
    "a message as code": f"import sys; print({SUM}); sys.exit('no')",
    "an exception after it": f"print({SUM})\n1 / 0",
    "nothing flushed": f"import os; print({SUM}); os._exit(0)",
    "atexit that ends it": f"import atexit, os\natexit.register(os._exit, 0)\nprint({SUM})",
    "a daemon thread": "import threading, time\ndef f():\n    time.sleep(30)\n    print(1)\n"
    "threading.Thread(target=f, daemon=True).start()",
    "writing the input": "import os\nos.write(0, b'3')",
}


@pytest.fixture(scope="module")
def grader() -> Iterator[Grader]:
    with Grader(code={"timeout_s": 5.0}) as grader:
        yield grader


@pytest.mark.parametrize("name", RIGHT)
def test_right_is_what_python_prints(grader: Grader, name: str) -> None:
    verdict = ask(grader, RIGHT[name], ECHO)
    assert verdict.correct, verdict


@pytest.mark.parametrize("name", WRONG)
def test_wrong_is_what_python_does_not_print(grader: Grader, name: str) -> None:
    verdict = ask(grader, WRONG[name], ECHO)
    assert (verdict.correct, verdict.reward, verdict.status) == (False, 0.0, Status.failed), verdict


@pytest.mark.parametrize("level", [Isolation.unshare, Isolation.rlimits], ids=lambda level: level.value)
def test_the_input_is_a_file_at_every_level(level: Isolation, monkeypatch: pytest.MonkeyPatch) -> None:
    from lightning_cispo.rewards import code_runner

    try:
        box = boxes.Box(level)
    except boxes.SandboxError as error:
        pytest.skip(str(error))
    monkeypatch.setattr(code_runner, "_box", lambda *_: box)
    for name in ("open('/dev/stdin')", "the input's size", "open('/dev/stdout')", "asyncio.run", "fast-IO header"):
        limits = {
            "min_isolation": "rlimits",
            "timeout_s": 5.0,
            "total_timeout_s": 9.0,
            "memory_mb": 512,
            "partial": False,
        }
        found = code_runner.grade(RIGHT[name], ECHO, limits)
        assert found["correct"], (name, found)
    box.close()


def counted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The runs that a verdict takes, as it goes."""
    runs: list[str] = []
    started = boxes.Box.run

    def run(box: boxes.Box, kind: str, *rest: Any) -> boxes.Run:
        runs.append(kind)
        return started(box, kind, *rest)

    monkeypatch.setattr(boxes.Box, "run", run)
    return runs


def verdict(answer: str, cases: list[list[str]], monkeypatch: pytest.MonkeyPatch, **limits: Any) -> tuple[Any, int]:
    from lightning_cispo.rewards import code_runner

    runs = counted(monkeypatch)
    known = {"min_isolation": "rlimits", "timeout_s": 5.0, "total_timeout_s": 60.0, "memory_mb": 256, "partial": False}
    try:
        return code_runner.grade(answer, {"cases": cases}, {**known, **limits}), len(runs)
    finally:
        code_runner._forget()


SQUARES = [[f"{n}\n", f"{n * n}\n"] for n in range(12)]


def test_cases_stop_at_the_first_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    found, runs = verdict("n = int(input()); print(n if n < 3 else n * n)", SQUARES, monkeypatch)
    assert (found["correct"], runs) == (False, 3)  # 0 and 1 are their own squares
    assert found["error"] == "wrong: case 3: not the expected output"


def test_all_cases_count_where_parts_are_paid(monkeypatch: pytest.MonkeyPatch) -> None:
    found, runs = verdict("n = int(input()); print(n if n < 3 else n * n)", SQUARES, monkeypatch, partial=True)
    assert (found["correct"], runs, found["parts"]["correct"]) == (False, 12, 11 / 12)


@pytest.mark.parametrize("partial", [False, True])
def test_all_cases_together_have_a_limit(monkeypatch: pytest.MonkeyPatch, partial: bool) -> None:
    slow = "import time; time.sleep(0.4); n = int(input()); print(n * n)"
    found, runs = verdict(slow, SQUARES, monkeypatch, total_timeout_s=1.0, partial=partial)
    assert (found["correct"], found["timeout"]) == (False, True)
    assert runs <= 3
    assert found["parts"]["passed"] <= 2 / 12


def test_a_slow_wrong_program_is_run_once(monkeypatch: pytest.MonkeyPatch) -> None:
    found, runs = verdict("import time; time.sleep(0.3); print('no')", SQUARES, monkeypatch, timeout_s=2.0)
    assert (found["correct"], runs) == (False, 1)
