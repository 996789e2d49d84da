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


def told(monkeypatch: pytest.MonkeyPatch, *moments: tuple[float, float, float]) -> None:
    left = iter(moments)
    monkeypatch.setattr(Meter, "_now", lambda _: next(left))


def test_waiting_for_a_processor_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    told(monkeypatch, (100.0, 5.0, 1.0), (110.0, 5.5, 10.0), (112.0, 6.0, 10.0))
    meter = Meter(2.0, -1)
    meter.start()
    assert meter.spent() == 1.0  # of 10 seconds it waited 9
    assert meter.left() == 0.0  # then it slept 2


def test_several_threads_count_what_they_compute(monkeypatch: pytest.MonkeyPatch) -> None:
    told(monkeypatch, (0.0, 0.0, 0.0), (1.0, 3.5, 0.0))
    meter = Meter(9.0, -1)
    meter.start()
    assert meter.spent() == 3.5


def test_only_what_is_awaited_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    told(monkeypatch, (0.0, 0.0, 0.0), (1.0, 0.0, 0.0), (50.0, 7.0, 0.0), (51.0, 7.0, 0.0))
    meter = Meter(9.0, -1)
    for _ in range(2):
        meter.start()
        meter.stop()
    assert meter.spent() == 2.0


def test_a_starved_run_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    meter = Meter(1.0, -1)
    clock = time.monotonic()
    monkeypatch.setattr(meters.time, "monotonic", lambda: clock + backstop(1.0) + 1)
    told(monkeypatch, (clock, 0.0, 0.0), (clock + 99, 0.0, 98.5))
    meter.start()
    with pytest.raises(Starved, match="of 1 s in 30 s by the clock"):
        meter.left()


def test_a_real_process_is_read() -> None:
    """Sleep and CPU time of a child both count; a process that is gone doesn't raise."""
    source = "import time\nwhile time.process_time() < 0.3: pass\nprint(flush=True)\ntime.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", source], stdout=subprocess.PIPE) as child:
        descriptor = os.pidfd_open(child.pid)
        meter = Meter(60.0, descriptor)
        os.close(descriptor)
        meter.start()
        assert child.stdout and child.stdout.readline()
        computed = meter.spent()
        assert computed >= 0.25
        time.sleep(0.2)
        assert meter.spent() > computed
        child.kill()
        child.wait()
        assert not Path(f"/proc/{child.pid}").exists()
        assert meter.spent() > 0
