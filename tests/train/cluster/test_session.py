"""Ray comes up, is shared out, and is gone afterwards, however the program ends."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from lightning_cispo.configs.errors import ConfigError
from lightning_cispo.train.cluster.session import available_cores, check_address
from tests.conftest import ROOT
from tests.train.cluster.nodes import free_ports


def session(todo: str, *arguments: str, **variables: str) -> tuple[subprocess.CompletedProcess[str], list[dict]]:
    """Run tests.train.cluster.program in a process group of its own; its JSON lines."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("RAY_AUTH")}
    environment |= variables
    done = subprocess.run(
        [sys.executable, "-m", "tests.train.cluster.program", todo, *arguments],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        start_new_session=True,
        timeout=120,
        check=False,
    )
    return done, [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def alive(pids: list[int], wait_s: float = 0.0, but: tuple[str, ...] = ()) -> list[str]:
    """Names of the processes that still run after at most `wait_s` seconds, those in `but` left out."""
    deadline = time.monotonic() + wait_s
    while True:
        found = [name for name in map(_running, pids) if name and name not in but]
        if not found or time.monotonic() > deadline:
            return found
        time.sleep(0.2)


def _running(pid: int) -> str | None:
    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return None
        return " ".join(process.cmdline()).strip() or process.name()
    except psutil.NoSuchProcess:
        return None


def mentioning(folder: Path) -> list[str]:
    """Command lines of processes that name the folder."""
    lines = {process.pid: " ".join(process.info["cmdline"] or []) for process in psutil.process_iter(["cmdline"])}
    return [line for line in lines.values() if str(folder) in line]


@pytest.mark.parametrize(
    ("todo", "says"), [("ctrl-c", ""), ("raise", "ValueError: planted"), ("interrupt", "KeyboardInterrupt")]
)
def test_nothing_is_left_behind(todo, says):
    done, (started, *after) = session(todo)
    assert says in done.stderr
    assert len({pid for pid, _ in started["actors"]}) == 4  # actors are processes of their own
    assert len(started["family"]) > 4 and alive(started["family"]) == []
    if todo == "ctrl-c":  # the same actors still answered after the signal had reached the group
        assert done.returncode == 0, done.stderr
        assert after == [{"said": "rested", "actors": started["actors"]}]


def test_a_killed_driver_takes_ray_with_it_within_ten_seconds():
    _, (started,) = session("killed")
    assert len(started["family"]) > 4 and alive(started["family"], wait_s=10) == []
    assert not Path(started["folder"]).exists()


def test_a_driver_killed_while_ray_starts_leaves_nothing_either():
    done, _ = session("killed while starting")
    folder = Path(done.stdout.strip())
    assert done.returncode == -9 and folder.name.startswith("cispo-")
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline and (folder.exists() or mentioning(folder)):
        time.sleep(0.2)
    assert mentioning(folder) == [] and not folder.exists()


def test_a_long_tmpdir_is_no_harm(tmp_path):
    folder = tmp_path / ("long" * 20)
    folder.mkdir()
    done, (started,) = session("end", TMPDIR=str(folder))
    assert done.returncode == 0, done.stderr
    assert len(started["folder"]) < 44 and not Path(started["folder"]).exists()


def test_attaching_spreads_over_the_nodes_and_leaves_the_cluster_running(two_nodes):
    nodes = []
    for _ in range(2):  # places are given back: there would not be room twice
        done, (started,) = session("attach", two_nodes)
        assert done.returncode == 0, done.stderr
        ranks, workers = started["actors"][:2], started["actors"][2:]
        assert len({node for _, node in ranks}) == len({node for _, node in workers}) == 2
        assert started["family"] == []
        assert alive([pid for pid, _ in started["actors"]], wait_s=20) == []
        nodes.append({node for _, node in started["actors"]})
    assert nodes[0] == nodes[1]


def test_a_cluster_of_another_token_mode_is_refused(two_nodes):
    done, _ = session("attach", two_nodes, RAY_AUTH_MODE="token", RAY_AUTH_TOKEN="5f" * 32)
    assert done.returncode == 2 and "RAY_AUTH_MODE" in done.stderr.splitlines()[-1], done.stderr


def test_an_address_without_a_cluster_is_refused_at_once():
    (port,) = free_ports(1)
    done, _ = session("attach", f"127.0.0.1:{port}")
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith(f"error: cluster.address=127.0.0.1:{port}: no Ray cluster answers")


@pytest.mark.parametrize("address", ["head", "ray://head:10001", "head:port"])
def test_addresses_of_another_form_are_refused(address):
    with pytest.raises(ConfigError, match=f"cluster.address={address}: must be host:port"):
        check_address(address)


def test_another_server_at_the_address_is_told_from_ray():
    with socket.create_server(("127.0.0.1", 0)) as server:
        with pytest.raises(ConfigError, match="what listens there is no Ray"):
            check_address(f"127.0.0.1:{server.getsockname()[1]}", timeout_s=1.0)


def test_available_cores_follow_the_affinity():
    allowed = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(allowed)})
        assert available_cores() == 1
    finally:
        os.sched_setaffinity(0, allowed)
    assert available_cores() == len(allowed)
