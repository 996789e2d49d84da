"""Judged programs: what a right one gets, what a cheat gets, and that a hostile one leaves nothing behind."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from lightning_cispo.rewards import code
from lightning_cispo.rewards.grader import Grader, check_verifier
from lightning_cispo.rewards.sandbox.box import Box, SandboxError
from lightning_cispo.rewards.sandbox.levels import Isolation
from lightning_cispo.rewards.verdict import Problem, Response, Status, Verdict
from tests.rewards.coding import DOUBLE, ECHO, ask, submit
from tests.rewards.processes import alive, eventually


def works(level: Isolation) -> bool:
    try:
        Box(level).close()
    except SandboxError:
        return False
    return True


@pytest.fixture(scope="module")
def grader() -> Iterator[Grader]:
    with Grader(code={"timeout_s": 1.0, "memory_mb": 256}) as grader:
        yield grader


@dataclass
class Outcome:
    """All cheats and hostile programs under one level, side by side: most of them only wait for their deadline."""

    verdicts: dict[str, Verdict]
    afterwards: Verdict
    isolation: str | None
    before: list[Any]
    after: list[Any]


@pytest.fixture(scope="module", params=list(Isolation), ids=lambda level: level.value)
def outcome(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    level = request.param
    if not works(level):
        pytest.skip(f"no sandbox of level {level.value} on this machine")
    programs = tmp_path_factory.mktemp("bin")  # the stricter levels' are out of reach
    found = shutil.which(level.value)
    if found:
        (programs / level.value).symlink_to(found)
    asked = {f"cheat: {name}": body for name, body in CHEATS.items()}
    for name, body in HOSTILE.items():
        asked[name] = f"def double(x):\n{_indented(body)}\n    return x * 2"
        asked[f"{name}, at once"] = f"{body}\n{RIGHT}"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", str(programs))
        before = _traces()
        with Grader(processes=8, code={"timeout_s": 1.5, "memory_mb": 256}) as grader:
            futures = {name: submit(grader, body) for name, body in asked.items()}
            verdicts = {name: future.result() for name, future in futures.items()}
            afterwards = ask(grader, RIGHT)
            isolation = grader.isolation
        eventually(lambda: _traces() == before)
    return Outcome(verdicts, afterwards, isolation, before, _traces())


RIGHT = "def double(x):\n    return x * 2"
CHEATS = {
    "exit": "import sys\nsys.exit(0)",
    "exit when called": "import sys\ndef double(x): sys.exit(0)",
    "raise SystemExit": "def double(x): raise SystemExit(0)",
    "os._exit": "import os\nos._exit(0)",
    "os._exit when called": "import os\ndef double(x): os._exit(0)",
    "atexit": "import atexit, os\natexit.register(lambda: os._exit(0))\ndef double(x): return 0",
    "excepthook": "import sys\nsys.excepthook = lambda *a: None\ndef double(x): return 0",
    "always equal": "class A:\n    def __eq__(self, o): return True\ndef double(x): return A()",
    "always equal int": "class A(int):\n    def __eq__(self, o): return True\n    __hash__ = int.__hash__\n"
    "def double(x): return A(1)",
    "always equal list": "class A(list):\n    def __eq__(self, o): return True\ndef double(x): return A()",
    "always equal str": "class A(str):\n    def __eq__(self, o): return True\ndef double(x): return A('z')",
    "patched builtins": "import builtins\nbuiltins.len = lambda x: 0\nbuiltins.AssertionError = type(None)\n"
    "def double(x): return 0",
    "frames": "import sys\ndef double(x):\n    f = sys._getframe()\n"
    "    while f:\n        for v in f.f_locals.values():\n"
    "            if v == 4 or v == 'abab': return v\n        f = f.f_back\n    return 0",
    "garbage collector": "import gc\ndef double(x):\n    for o in gc.get_objects():\n"
    "        if isinstance(o, str) and 'assert' in o and 'double(2) ==' in o: return 4\n    return 0",
    "command line": "def double(x):\n    s = open('/proc/self/cmdline').read()\n    return 4 if s else 0",
    "forged result": "import os\nfor d in range(64):\n    try: os.write(d, b'\\x00\\x00\\x00\\x09R[null,nu')\n"
    "    except OSError: pass\ndef double(x): return 0",
    "forged frame": "import os, struct\nbody = b'R[null, null, null]'\nfor d in range(64):\n"
    "    try: os.write(d, struct.pack('>I', len(body)) + body)\n    except OSError: pass\ndef double(x): return 0",
    "huge announcement": "import os\nfor d in range(64):\n    try: os.write(d, b'\\xff' * 8)\n"
    "    except OSError: pass\ndef double(x): return 0",
    "recompiled": "import builtins\nbuiltins.exec = lambda *a: None\nbuiltins.compile = None\ndef double(x): return 0",
    "assertion raised": "def double(x): raise AssertionError",
    "stop": "def double(x): raise StopIteration",
    "nothing": "def double(x): pass",
    "not defined": "def treble(x): return 0",
    "deep value": "def double(x):\n    a = []\n    for _ in range(5000): a = [a]\n    return a",
    "endless value": "import itertools\ndef double(x): return itertools.count()",
    "large value": "def double(x): return 'x' * 10**8",
}  # fmt: skip


@pytest.mark.parametrize("name", CHEATS)
def test_cheats_get_nothing(outcome: Outcome, name: str) -> None:
    verdict = outcome.verdicts[f"cheat: {name}"]
    assert (verdict.correct, verdict.reward) == (False, 0.0), verdict
    assert verdict.error


HOSTILE = {
    "spins": "while True: pass",
    "sleeps": "import time\ntime.sleep(60)",
    "holds the lock": "9 ** (9 ** 9)",
    "memory": "x = bytearray(1 << 40)",
    "memory by steps": "x = []\nwhile True: x.append(bytearray(1 << 22))",
    "forks": "import os\nwhile True: os.fork()",
    "a program": "import subprocess\nsubprocess.run(['/bin/sh', '-c', 'sleep 77'])",
    "a daemon": "import os\nif os.fork() == 0:\n    os.setsid()\n    while True: pass",
    "threads": "import threading, time\nwhile True: threading.Thread(target=time.sleep, args=(60,)).start()",
    "kills": "import os\nos.kill(os.getppid(), 9)",
    "kills all": "import os\nos.kill(-1, 9)",
    "limits others": "import os, resource\nresource.prlimit(os.getppid(), resource.RLIMIT_CPU, (1, 1))",
    "network": "import socket\nsocket.socket().connect(('127.0.0.1', 22))",
    "listens": "import socket\nsocket.socket(socket.AF_UNIX).bind('/tmp/rewards-test')",
    "writes": "open('/tmp/rewards-test', 'w').write('x')",
    "shared memory": "open('/dev/shm/rewards-test', 'w').write('x')",
    "writes at home": "import os\nopen(os.path.expanduser('~/rewards-test'), 'w').write('x')",
    "a link": "import os\nos.symlink('/etc/passwd', '/tmp/rewards-test')",
    "a folder": "import os\nos.mkdir('/tmp/rewards-test')",
    "reads": "open('/etc/passwd').read()",
    "reads itself": f"open({__file__!r}).read()",
    "lists": "import os\nassert not os.listdir('/proc/1')\nraise ValueError",
    "changes rights": "import os\nos.chmod('/usr/lib', 0o777)",
    "mounts": "import ctypes\nl = ctypes.CDLL(None, use_errno=True)\n"
    "assert l.mount(b'a', b'/usr', b'tmpfs', 0, None) == 0",
    "a namespace": "import ctypes\nl = ctypes.CDLL(None, use_errno=True)\nassert l.unshare(0x10000000) == 0",
    "traces": "import ctypes, os\nl = ctypes.CDLL(None, use_errno=True)\nassert l.ptrace(16, os.getppid(), 0, 0) == 0",
    "raises its limits": "import resource\nresource.setrlimit(resource.RLIMIT_AS, (1 << 50, 1 << 50))",
    "crashes": "import ctypes\nctypes.string_at(0)",
    "recursion": "import sys\nsys.setrecursionlimit(10**9)\ndef f(): return f()\nf()",
    "output": "while True: print('x' * 100000)",
    "all pipes": "import os\nwhile True:\n    for d in range(64):\n        try: os.write(d, b'x' * 65536)\n"
    "        except OSError: pass",
    "old system calls": "import ctypes\nl = ctypes.CDLL(None, use_errno=True)\nassert l.syscall(0x40000000 + 39) > 0",
    "new system calls": "import ctypes\nl = ctypes.CDLL(None, use_errno=True)\nassert l.syscall(425, 8, None) > 0",
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_programs_fail(outcome: Outcome, name: str) -> None:
    for verdict in (outcome.verdicts[name], outcome.verdicts[f"{name}, at once"]):
        assert (verdict.correct, verdict.reward) == (False, 0.0), verdict


def test_hostile_programs_leave_nothing_and_harm_nobody(outcome: Outcome, request: pytest.FixtureRequest) -> None:
    assert outcome.after == outcome.before
    assert outcome.afterwards.correct
    assert f"[{outcome.isolation}]" in request.node.name


def _indented(text: str) -> str:
    return "\n".join("    " + line for line in text.splitlines())


def _traces() -> list[Any]:
    """Processes below this one, files where such programs write, mounts, and System V's leftovers."""
    own = psutil.Process().children(recursive=True)
    files = [Path("/tmp/rewards-test"), Path("/dev/shm/rewards-test"), Path.home() / "rewards-test"]
    mounts = Path("/proc/self/mounts").read_text()
    cgroups = Path("/proc/self/cgroup").read_text()
    return [sorted(p.pid for p in own), [f.exists() for f in files], mounts, cgroups]


def test_programs_that_read_and_print(grader: Grader) -> None:
    assert ask(grader, "a, b = map(int, input().split())\nprint(a + b)", ECHO).correct
    assert ask(grader, "import sys\nprint(sum(map(int, sys.stdin.read().split())), end='')\nsys.exit(0)", ECHO).correct
    threaded = "import threading\nt = threading.Thread(target=lambda: print(sum(map(int, input().split()))))\n"
    assert ask(grader, threaded + "t.start()\nt.join()", ECHO).correct
    for wrong in (
        "print(3)",
        "import sys\nsys.exit(0)",
        "import os\nos._exit(0)",
        "a, b = map(int, input().split())\nprint(a + b)\nraise ValueError",
        "a, b = map(int, input().split())\nprint(a + b, 1)",
        "print(str(sum(map(int, input().split())))[:1])",
        "while True: print('x' * 100000)",
        "",
    ):
        assert not ask(grader, wrong or "pass", ECHO).correct


def test_what_went_wrong_can_be_told_apart(grader: Grader) -> None:
    compiled = ask(grader, "def double(x) return")
    assert (compiled.status, compiled.parts["compiled"]) == (Status.failed, 0.0)
    assert compiled.error.startswith("compile error: SyntaxError")
    late = ask(grader, "def double(x):\n    while True: pass")
    assert (late.status, late.parts["compiled"]) == (Status.timeout, 1.0)
    wrong = ask(grader, "def double(x): return x")
    assert (wrong.status, wrong.error[:30]) == (Status.failed, "wrong: assert double(2) == 4 d")
    assert ask(grader, "print(", ECHO).error.startswith("compile error: case 1: SyntaxError")
    assert ask(grader, "import time\ntime.sleep(9)", ECHO).status is Status.timeout
    assert ask(grader, "1 / 0", ECHO).error == "error: case 1: ZeroDivisionError: division by zero"


def test_unusable_tests_mask(grader: Grader) -> None:
    verdict = ask(grader, RIGHT, {"setup": "1 / 0", "tests": ["assert double(1)"]})
    assert (verdict.reward, verdict.status) == (None, Status.infra_error)
    assert "ZeroDivisionError" in verdict.error


def test_the_passed_fraction_by_option() -> None:
    others = {p.pid for p in psutil.Process().children(recursive=True)}
    half = "def double(x): return x * 2 if x == 2 else 0"
    with Grader(code={"partial": True}) as grader:
        verdict = ask(grader, half)
        assert (verdict.correct, verdict.reward) == (False, pytest.approx(1 / 3))
        assert ask(grader, "print(3)", ECHO).reward == 0.5
        pids = {p.pid for p in psutil.Process().children(recursive=True)} - others
    assert pids and eventually(lambda: not any(map(alive, pids)))


def test_values_of_all_plain_kinds_come_back() -> None:
    values = (
        "[None, True, -(10**400), 1.5, float('inf'), 2j, 'é\\ud800', b'\\x00', (1,), {2}, frozenset({3}), {4: [5]}]"
    )
    tests = {
        "tests": [f"assert same({values}) == {values}", "assert same(x=1.0) is not True", "assert [*lazy()] == [1]"]
    }
    with Grader() as grader:
        verdict = ask(grader, "def same(x): return x\ndef lazy(): yield 1", tests)
        assert verdict.correct, verdict.error


def test_a_level_that_cannot_be_had_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "no bwrap on the PATH" in (check_verifier("code", "bwrap") or "")
    with Grader(code={"min_isolation": "bwrap"}) as grader:
        verdict = ask(grader, RIGHT)
        assert (verdict.reward, verdict.status) == (None, Status.infra_error)
        assert "no sandbox of level bwrap" in verdict.error
    with pytest.raises(ValueError, match="min_isolation=jail"):
        Grader(code={"min_isolation": "jail"})


def test_tests_are_checked_when_loaded() -> None:
    assert code.check_answer(json.dumps(DOUBLE)) is None
    assert code.check_answer(json.dumps(ECHO)) is None
    for wrong in ("", "[]", "{}", '{"tests": []}', '{"tests": ["assert ("]}', '{"cases": [["1"]]}', '{"cases": []}'):
        assert code.check_answer(wrong)


def rows(path: str) -> list[dict[str, Any]]:
    from tests.conftest import ROOT

    file = ROOT.parent / "shared" / "data" / path
    if not file.exists():
        pytest.skip(f"no ../shared/data/{path}")
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_references_pass() -> None:
    human = [(code.humaneval(row), row["prompt"] + row["canonical_solution"]) for row in rows("humaneval/test.jsonl")]
    parts = [rows(f"mbpp/{name}.jsonl") for name in ("prompt", "train", "validation", "test")]
    basic = [(code.mbpp(row), row["code"]) for part in parts for row in part]
    with Grader(processes=2, code={"timeout_s": 20.0}) as grader:
        futures = [
            grader.submit(Problem("?", "", "code", "t", tests), Response(f"```python\n{answer}\n```", 1, "eos", 9))
            for tests, answer in human + basic
        ]
        right = [future.result().correct for future in futures]
    assert (len(human), len(basic)) == (164, 974)
    assert sum(right[:164]) == 164
    assert sum(right[164:]) == 974
