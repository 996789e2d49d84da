"""Signals that end a program at once, wherever it stands."""

from __future__ import annotations

import os
import signal

import pytest

from lightning_cispo.train.interrupt import StopRequest, at_once


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
def test_a_signal_ends_the_program_with_its_code(strike, number, capsys):
    with pytest.raises(SystemExit) as ended, at_once(), StopRequest(patient=False):
        strike(number)
    assert ended.value.code == 128 + number
    assert capsys.readouterr().err == f"stopped at once by {number.name}\n"


def test_other_errors_pass():
    with pytest.raises(ValueError, match="planted"), at_once(), StopRequest(patient=False):
        raise ValueError("planted")
