"""A program that opens a Ray session for the tests: `python -m tests.train.cluster.program <what to do> [address]`."""

from __future__ import annotations

import json
import os
import signal
import sys
import tempfile
import threading
import time

import psutil
import ray

from lightning_cispo.configs.errors import refusals
from lightning_cispo.configs.schema import ClusterConfig
from lightning_cispo.train.cluster.session import ray_session


class Actor:
    def where(self) -> tuple[int, str]:
        return os.getpid(), ray.get_runtime_context().get_node_id()

    def nap(self, seconds: float) -> str:
        time.sleep(seconds)
        return "rested"


def kill_while_starting() -> None:
    """Kill this process once Ray has begun to start; prints the folder of its temporary files."""
    while not any("gcs_server" in process.name() for process in psutil.Process().children()):
        time.sleep(0.05)
    print(tempfile.gettempdir(), flush=True)
    os.kill(os.getpid(), signal.SIGKILL)


def main(todo: str, address: str | None = None) -> None:
    if todo == "killed while starting":
        threading.Thread(target=kill_while_starting).start()
    with refusals(), ray_session(ClusterConfig(address=address), ranks=2, workers=2) as cluster:
        options = [*cluster.learner_placement, *cluster.rollout_placement]
        actors = [ray.remote(Actor).options(**option).remote() for option in options]
        where = ray.get([actor.where.remote() for actor in actors])
        family = [process.pid for process in psutil.Process().children(recursive=True)]
        print(json.dumps({"actors": where, "family": family, "folder": tempfile.gettempdir()}), flush=True)
        if todo == "raise":
            raise ValueError("planted")
        if todo == "interrupt":
            raise KeyboardInterrupt
        if todo == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        if todo == "ctrl-c":  # as a terminal sends it, to the whole group; the driver has a handler, as in a run
            signal.signal(signal.SIGINT, lambda *_: None)
            napping = actors[0].nap.remote(1.5)
            time.sleep(0.5)
            os.killpg(os.getpgrp(), signal.SIGINT)
            print(json.dumps({"said": ray.get(napping), "actors": ray.get([actor.where.remote() for actor in actors])}))


if __name__ == "__main__":
    main(*sys.argv[1:])
