"""Signals that end a program at once, wherever it stands."""

from __future__ import annotations

import os
import signal

import pytest

from lightning_cispo.train.failure import opened
from lightning_cispo.train.interrupt import StopRequest
from tests.train.small_run import SmallRun, config


def interrupted(number: signal.Signals) -> None:
    os.kill(os.getpid(), number)


def interrupted_in_a_library(number: signal.Signals) -> None:
    """As OmegaConf does: its clean-up reads a variable that the signal kept from being set; then it raises anew."""
    try:
        try:
            os.kill(os.getpid(), number)
            before = 1
        finally:
            before += 1
    except Exception as error:
        raise ValueError("full_key: tasks") from error


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("strike", [interrupted, interrupted_in_a_library])
def test_a_signal_ends_the_program_with_its_code(strike, number, capsys, tmp_path):
    with pytest.raises(SystemExit) as ended, opened(SmallRun(config(tmp_path)), "cispo train"), StopRequest():
        strike(number)
    assert ended.value.code == 128 + number
    last = capsys.readouterr().err.splitlines()[-1]
    assert last == f"stopped at once by {number.name}; nothing was saved before that: start it again"
