"""Who holds a run folder, and what becomes of the lock after every kind of death."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from lightning_cispo.configs.schema import RunConfig
from lightning_cispo.train.folder import free_name
from lightning_cispo.train.lock import FolderInUse, in_use, sole_user
from lightning_cispo.train.run import Run

HELD = """
import os, signal, sys
from pathlib import Path
from lightning_cispo.train.lock import sole_user
with sole_user(Path(sys.argv[1])):
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_run_folder_has_one_user_and_a_second_is_told_who(tmp_path):
    with sole_user(tmp_path):
        with pytest.raises(FolderInUse) as refused, sole_user(tmp_path):
            pass
        assert in_use(tmp_path)
    said = str(refused.value)
    assert said.startswith(f"{tmp_path}: another program is at work in this run folder (process {os.getpid()} on ")
    assert not in_use(tmp_path) and list(tmp_path.iterdir()) == []
    with sole_user(tmp_path):
        pass


def test_a_killed_program_holds_nothing(tmp_path):
    done = subprocess.run([sys.executable, "-c", HELD, str(tmp_path)], check=False)
    assert done.returncode == -signal.SIGKILL and (tmp_path / ".lock").exists()
    assert not in_use(tmp_path)
    with sole_user(tmp_path):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_name_that_another_run_takes_meanwhile_is_left_to_it(tmp_path):
    first, second = (Run(RunConfig(runs_dir=str(tmp_path), name="mine")) for _ in range(2))
    assert first.folder == second.folder == tmp_path / "mine"
    first._claim_folder()
    assert free_name(tmp_path, "mine") == "mine-2"
    second._claim_folder()
    assert second.folder == tmp_path / "mine-2" and second.config.name == "mine-2"
    first._stack.close()
    second._stack.close()


@pytest.mark.parametrize(
    ("holder", "refused"),
    [
        ({"pid": os.getpid()}, "another program is at work"),
        ({"pid": 2**30}, None),
        ({"pid": 1, "host": "elsewhere"}, "on elsewhere, since noon); if it has ended, remove"),
        (None, None),
    ],
)
def test_without_locks_of_the_file_system_the_file_tells(tmp_path, monkeypatch, holder, refused):
    def unsupported(*_: object) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(fcntl, "flock", unsupported)
    here = {"host": os.uname().nodename, "since": "noon"}
    Path(tmp_path / ".lock").write_text(json.dumps({**here, **holder}) if holder else "")
    if refused is None:
        with sole_user(tmp_path):
            pass
    else:
        with pytest.raises(FolderInUse) as found, sole_user(tmp_path):
            pass
        assert refused in str(found.value)
