"""How programs end: one line last, which says what died, why, and how to go on."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest
import ray
from ray.exceptions import ActorDiedError

from lightning_cispo.configs.errors import ConfigError
from lightning_cispo.train.actors import ActorDied
from lightning_cispo.train.ended import RunEnded
from lightning_cispo.train.failure import explained, opened
from lightning_cispo.train.interrupt import Stopped, StoppedAtOnce, StopRequest
from lightning_cispo.train.loop import train
from lightning_cispo.train.memory import MemorySampler
from tests.train.small_run import SmallRun, config

DIED = (
    "The actor died unexpectedly before finishing this task.\n\tclass_name: Learner\n\tactor_id: 5f\n\tpid: 4321\n"
    "The actor is dead because its worker process has died. Worker exit type: SYSTEM_ERROR Worker exit detail: x"
)


def died(text: str = DIED) -> ActorDiedError:
    error = ActorDiedError()
    error.error_msg = text
    return error


def ending(folder: Path, error: BaseException, *overrides: str, steps: int = 0) -> int:
    """The exit code of a program in which `error` is raised after as many steps."""
    with pytest.raises(SystemExit) as ended:
        with opened(SmallRun(config(folder, f"steps={steps or 1}", *overrides)), "cispo train") as run:
            if steps:
                train(run)
            raise error
    return int(ended.value.code)


def test_the_last_line_says_what_died_why_and_how_to_go_on(tmp_path, capsys):
    error = ActorDied("learner rank 1 of 2 died")
    error.__cause__ = died()
    assert ending(tmp_path, error, steps=2) == 1
    (line,) = capsys.readouterr().err.splitlines()
    folder = tmp_path / "smoke"
    assert line == (
        "error: learner rank 1 of 2 died: process 4321 (Learner) was killed or crashed; if the machine ran out of "
        f"memory, its kernel log says so (details: {folder / 'error.log'}); to continue from step-000002: "
        f"cispo train resume={folder}"
    )
    assert "ActorDied: learner rank 1 of 2 died" in (folder / "error.log").read_text()


def test_a_run_that_ended_itself_says_so_without_a_traceback(tmp_path, capsys):
    assert ending(tmp_path, RunEnded("3 updates in a row"), steps=1) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line == f"ended: 3 updates in a row; to continue from step-000001: cispo train resume={tmp_path / 'smoke'}"


def test_before_the_first_checkpoint_there_is_nothing_to_go_on_from(tmp_path, capsys):
    assert ending(tmp_path, died()) == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.endswith("; nothing was saved before that: start it again")


def test_an_error_that_nobody_foresaw_shows_its_traceback_once_above_the_line(tmp_path, capsys):
    assert ending(tmp_path, KeyError("planted")) == 1
    lines = capsys.readouterr().err.splitlines()
    assert lines[-1].startswith("error: KeyError: 'planted' (details: ")
    assert sum("Traceback" in line for line in lines) == 1


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (ConfigError("steps=0: must be more"), 2, "error: steps=0: must be more"),
        (KeyboardInterrupt(), 130, "stopped at once by SIGINT"),
        (StoppedAtOnce(signal.SIGTERM), 143, "stopped at once by SIGTERM"),
    ],
)
def test_refusals_and_signals_have_their_own_codes(tmp_path, capsys, error, code, said):
    assert ending(tmp_path, error) == code
    assert capsys.readouterr().err.splitlines()[-1].startswith(said)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(28, "No space left on device"), "no space left on runs/x: make room; older checkpoints are whole"),
        (RuntimeError("I/O error: No space left on device (os error 28)"), "no space left on runs/x"),
        (died("class_name: A\n\tpid: 7\n the node was running low on memory"), "process 7 (A) was ended by Ray as the"),
        (ValueError("first\nsecond"), "ValueError: first"),
        (AssertionError(), "AssertionError: AssertionError"),
    ],
)
def test_causes_in_one_line(error, said):
    line, _ = explained(error, Path("runs/x"))
    assert line.startswith(said) and "\n" not in line


def test_an_error_in_an_actor_names_its_method():
    def planted() -> None:
        raise ValueError("planted\nand more")

    try:
        planted()
    except ValueError as error:
        raised = ray.exceptions.RayTaskError("Learner.update", "ray::Learner.update() trace", error)
    said, expected = explained(raised.as_instanceof_cause(), Path("runs/x"))
    assert said == "ValueError in Learner.update: planted" and not expected


def test_a_signal_waits_where_there_is_something_to_save_and_the_second_does_not(capfd):
    with StopRequest() as stop:
        with pytest.raises(StoppedAtOnce):
            signal.raise_signal(signal.SIGTERM)
    with StopRequest() as stop:
        stop.patient = True
        stop.check()
        signal.raise_signal(signal.SIGTERM)
        assert stop.exit_code == 143 and "SIGTERM: saving, then stopping" in capfd.readouterr().out
        with pytest.raises(Stopped):
            stop.check()
        with pytest.raises(StoppedAtOnce):
            signal.raise_signal(signal.SIGINT)
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopRequest():
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN, "as nohup wants it"
    finally:
        signal.signal(signal.SIGHUP, before)


def test_memory_is_measured_beside_the_run_and_a_failure_keeps_the_last_value():
    values = iter([7.0])
    with MemorySampler(lambda: next(values)) as sampler:
        deadline = time.monotonic() + 10
        while sampler.latest is None and time.monotonic() < deadline:
            time.sleep(0.01)
        assert sampler.latest == 7.0
        sampler._ended.set()
