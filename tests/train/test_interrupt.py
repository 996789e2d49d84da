"""Signals that end a program at once, wherever it stands."""

from __future__ import annotations

import os
import signal

import pytest
from omegaconf import ListConfig

from lightning_cispo.train.interrupt import StopRequest, at_once


class Signalled(list):
    """A list during whose reading a signal arrives."""

    def __init__(self, number: signal.Signals):
        super().__init__([1])
        self.number = number

    def __iter__(self):
        os.kill(os.getpid(), self.number)
        return super().__iter__()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_inside_omegaconf_ends_the_program_with_its_code(number, capsys):
    with pytest.raises(SystemExit) as ended, at_once(), StopRequest(patient=False):
        ListConfig(Signalled(number))
    assert ended.value.code == 128 + number
    assert capsys.readouterr().err == f"stopped at once by {number.name}\n"
