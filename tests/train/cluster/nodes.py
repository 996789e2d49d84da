"""A Ray cluster of two nodes on this host, apart from any other Ray here: own ports and folder, ended by process id."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psutil
import pytest


def free_ports(count: int) -> list[int]:
    """Ports that were free a moment ago, all different."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for listener in sockets:
            listener.bind(("127.0.0.1", 0))
        return [listener.getsockname()[1] for listener in sockets]


@contextmanager
def ray_cluster(nodes: int = 2, cpus: int = 1) -> Iterator[str]:
    """`ray start` once a node; yields the head's address. Every process of it is gone afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="ray", dir="/tmp"))  # short: socket paths in it may have 107 characters
    head, client, *agents = free_ports(2 + 2 * nodes)
    address = ""
    processes: list[subprocess.Popen[bytes]] = []
    try:
        for node in range(nodes):
            place = (
                [f"--address={address}"]
                if node
                else [
                    "--head",
                    "--include-dashboard=false",
                    f"--port={head}",
                    f"--ray-client-server-port={client}",
                    f"--temp-dir={folder}",
                ]
            )
            processes.append(_start(folder, node, cpus, agents[2 * node : 2 * node + 2], place))
            printed = _wait_until_started(processes[-1], folder / f"node{node}.log")
            address = address or printed
        yield address
    finally:
        _end(processes)
        shutil.rmtree(folder, ignore_errors=True)


def _start(folder: Path, node: int, cpus: int, ports: list[int], place: list[str]) -> subprocess.Popen[bytes]:
    options = [
        *place,
        f"--num-cpus={cpus}",
        f"--object-store-memory={100 << 20}",
        "--disable-usage-stats",
        f"--dashboard-agent-listen-port={ports[0]}",
        f"--dashboard-agent-grpc-port={ports[1]}",
        "--min-worker-port=0",
        "--max-worker-port=0",
        "--block",
    ]
    environment = {
        **os.environ,
        "RAY_AUTH_MODE": "disabled",
        "RAY_enable_worker_prestart": "0",
        "RAY_prestart_worker_first_driver": "0",
    }
    with (folder / f"node{node}.log").open("wb") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "ray.scripts.scripts", "start", *options],
            stdout=log,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,
        )


def _wait_until_started(process: subprocess.Popen[bytes], log: Path) -> str:
    """Address of the head as `ray start` prints it; a node that prints this has joined."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        if "Ray runtime started" in log.read_text() and "--block" in log.read_text():
            found = re.search(r"--address='([\d.:]+)'", log.read_text())
            return found.group(1) if found else ""
        time.sleep(0.1)
    raise RuntimeError(f"a node of the test cluster did not come up: {log.read_text()[-2000:]}")


def _end(processes: list[subprocess.Popen[bytes]]) -> None:
    family: list[psutil.Process] = []
    for process in reversed(processes):
        try:
            family += [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
        except psutil.NoSuchProcess:
            continue
        process.send_signal(signal.SIGTERM)
    _, alive = psutil.wait_procs(family, timeout=20)
    for process in alive:
        process.kill()
    psutil.wait_procs(alive, timeout=10)


@pytest.fixture(scope="module")
def two_nodes() -> Iterator[str]:
    """Address of a running cluster of two nodes with a CPU each."""
    with ray_cluster() as address:
        yield address
