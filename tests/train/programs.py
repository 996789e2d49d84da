"""Running the programs as a user does, and seeing what they leave behind."""

from __future__ import annotations

import os
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Any

import psutil

from lightning_cispo.train.tracking import read_lines

ROOT = Path(__file__).parents[2]
MARK = "TEST_PROGRAM_MARK"


class Program:
    """`cispo <command> <overrides>` in a session of its own; its processes carry a mark in their environment."""

    def __init__(self, command: str, *overrides: str, cwd: Path = ROOT):
        self.mark = uuid.uuid4().hex
        # A Ray of the tests' own process leaves its token mode behind, which is not that of the program's cluster.
        environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_AUTH")}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "lightning_cispo.launch.cli", command, *overrides],
            cwd=cwd,
            env={**environment, MARK: self.mark, "HF_HUB_OFFLINE": "1"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def wait_for(self, text: str) -> str:
        """Output up to the first line that holds `text`."""
        assert self.process.stdout is not None
        seen = []
        for line in self.process.stdout:
            seen.append(line)
            if text in line:
                return "".join(seen)
        raise AssertionError(f"{text!r} never came:\n{''.join(seen)}\n{self.process.communicate()[1][-3000:]}")

    def finish(self, timeout: float = 240) -> tuple[int, str, str]:
        out, err = self.process.communicate(timeout=timeout)
        return self.process.returncode, out, err

    def leftovers(self) -> list[str]:
        """Processes of this program that still run."""
        found = []
        for process in psutil.process_iter():
            try:
                if process.environ().get(MARK) == self.mark and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(f"{process.pid} {process.name()}")
            except (psutil.NoSuchProcess, psutil.AccessDenied):
                continue
        return found


def run(command: str, *overrides: str, cwd: Path = ROOT) -> str:
    """A program that must succeed and leave no process behind. Returns its standard output."""
    program = Program(command, *overrides, cwd=cwd)
    code, out, err = program.finish()
    assert code == 0, f"exit {code}\n{out}\n{err[-5000:]}"
    assert program.leftovers() == []
    return out


def metrics(folder: Path) -> list[dict[str, Any]]:
    return list(read_lines(folder / "metrics.jsonl"))


def traces(folder: Path) -> list[dict[str, Any]]:
    return [line for path in sorted((folder / "traces").glob("*.jsonl")) for line in read_lines(path)]


_TIMED_ROLLOUT = ("rollout/restarts", "rollout/tokens_per_s", "rollout/queue_s", "rollout/occupancy")


def steps_without_times(folder: Path, after: int) -> list[dict[str, Any]]:
    """RL and evaluation lines of the steps beyond `after`, without what depends on the clock or the machine."""
    measured = ("time/", "throughput/", "memory/", "verify/", *_TIMED_ROLLOUT)
    return [
        {name: value for name, value in line.items() if not name.startswith(measured)}
        for line in metrics(folder)
        if line["step"] > after and not any(name == "time/checkpoint_s" for name in line)
    ]
