"""Ray that does not come up at once."""

from __future__ import annotations

import subprocess
import sys

import psutil
import pytest
import ray

from lightning_cispo.configs.errors import ConfigError
from lightning_cispo.train.cluster.start import start_ray

LATE = Exception(
    "The current node timed out during startup. This could happen because some of the raylet failed.\nMore"
)


def starts(monkeypatch, *outcomes: Exception | None) -> list[dict]:
    """`ray.init` leaves a process behind and raises what is given, call by call. Returns the calls made."""
    calls: list[dict] = []

    def init(**options) -> None:
        calls.append(options)
        subprocess.Popen([sys.executable, "-c", "import time; time.sleep(100)"])
        if error := outcomes[len(calls) - 1]:
            raise error

    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    return calls


def test_a_late_start_is_tried_once_more_and_leaves_nothing(monkeypatch):
    before = set(psutil.Process().children())
    calls = starts(monkeypatch, LATE, None)
    start_ray(address="local", num_cpus=2)
    [left] = set(psutil.Process().children()) - before
    left.kill()
    left.wait()
    assert calls == [{"address": "local", "num_cpus": 2}] * 2


def test_a_second_late_start_is_one_line(monkeypatch):
    before = set(psutil.Process().children())
    calls = starts(monkeypatch, LATE, LATE)
    with pytest.raises(ConfigError) as caught:
        start_ray()
    assert str(caught.value).startswith("Ray did not start here, twice: The current node timed out during startup.")
    assert "\n" not in str(caught.value) and len(calls) == 2
    assert set(psutil.Process().children()) == before


def test_another_error_is_raised_as_it_is(monkeypatch):
    calls = starts(monkeypatch, ValueError("object_store_memory must be an integer"))
    with pytest.raises(ValueError, match="must be an integer"):
        start_ray()
    assert len(calls) == 1
