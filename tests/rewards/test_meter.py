"""What counts as a run's time."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lightning_cispo.rewards.sandbox import meter as meters
from lightning_cispo.rewards.sandbox.meter import Meter, Starved, backstop


class Machine:
    """A clock and the statistics of a process, both as told."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch):
        self.clock = 1000.0
        self.cpu = self.delay = 0.0
        monkeypatch.setattr(meters.time, "monotonic", lambda: self.clock)
        monkeypatch.setattr(Meter, "_computed", lambda _: self.cpu)
        monkeypatch.setattr(Meter, "_waited", lambda _: self.delay)

    def passes(self, seconds: float, cpu: float = 0.0, delay: float = 0.0) -> None:
        self.clock += seconds
        self.cpu += cpu
        self.delay += delay


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(monkeypatch)


def test_waiting_for_a_processor_does_not_count(machine: Machine) -> None:
    meter = Meter(2.0, -1)
    with meter.awaiting():
        machine.passes(10.0, cpu=0.5, delay=9.0)
        assert meter.spent() == 1.0
        assert meter.left() == 1.0
        machine.passes(1.5)  # it sleeps
        assert meter.left() == 0.0


def test_what_others_waited_before_it_does_not_count(machine: Machine) -> None:
    machine.delay = 50.0
    meter = Meter(2.0, -1)
    with meter.awaiting():
        machine.passes(3.0, delay=0.5)
    assert meter.spent() == 2.5


def test_several_threads_count_what_they_compute(machine: Machine) -> None:
    meter = Meter(2.0, -1)
    with meter.awaiting():
        machine.passes(2.0, cpu=3.5, delay=1.5)
        assert meter.spent() == 3.5
        assert meter.left() == 0.0


def test_only_what_is_awaited_counts(machine: Machine) -> None:
    meter = Meter(9.0, -1)
    for _ in range(2):
        with meter.awaiting():
            machine.passes(1.0)
        machine.passes(50.0)
    assert meter.spent() == 2.0


def test_short_waits_add_up(machine: Machine) -> None:
    meter = Meter(1.0, -1)
    for _ in range(300):
        with meter.awaiting():
            machine.passes(0.004)
    assert meter.left() == 0.0


def test_a_starved_run_is_given_up(machine: Machine) -> None:
    meter = Meter(1.0, -1)
    with meter.awaiting():
        machine.passes(backstop(1.0) - 1, delay=backstop(1.0) - 1.5)
        assert meter.left() == 0.5
        machine.passes(1.0, delay=1.0)
        with pytest.raises(Starved, match="0.5 of 1 s in 70 s by the clock"):
            meter.left()


def test_a_real_process_is_read() -> None:
    """CPU time of a child counts, and its sleep; a process that is gone doesn't raise."""
    source = "import time\nwhile time.process_time() < 0.3: pass\nprint(flush=True)\ntime.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", source], stdout=subprocess.PIPE) as child:
        descriptor = os.pidfd_open(child.pid)
        meter = Meter(60.0, descriptor)
        os.close(descriptor)
        assert child.stdout and child.stdout.readline()
        computed = meter.spent()
        assert computed >= 0.25
        with meter.awaiting():
            time.sleep(computed + 1)
        assert meter.spent() > computed
        child.kill()
        child.wait()
        assert not Path(f"/proc/{child.pid}").exists()
        assert meter.spent() > 0
