"""A Ray to run on: started here and taken down again, or somebody's running cluster that is only visited."""

from __future__ import annotations

import logging
import os
import secrets
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import psutil

from lightning_cispo.configs.errors import ConfigError, first_line
from lightning_cispo.configs.schema import ClusterConfig
from lightning_cispo.train.cluster.cleanup import cleaned_up
from lightning_cispo.train.cluster.placement import in_place, place
from lightning_cispo.train.cluster.start import start_ray

# Read by Ray's processes as they start. Idle workers and usage reports cost memory and seconds and serve nothing here.
_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_enable_worker_prestart": "0",
    "RAY_prestart_worker_first_driver": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_TQDM": "0",
}
_SHUTDOWN_S = 10.0


@dataclass(frozen=True)
class Cluster:
    """Options for `.options(**...)` of each actor: one entry a learner rank, one a rollout worker."""

    learner_placement: list[dict[str, Any]]
    rollout_placement: list[dict[str, Any]]


def available_cores() -> int:
    """CPU cores this process may run on."""
    return len(os.sched_getaffinity(0))


@contextmanager
def ray_session(config: ClusterConfig, ranks: int, workers: int, logs: Path | None = None) -> Iterator[Cluster]:
    """Ray with places for `ranks` learner ranks and `workers` rollout workers.

    A Ray started here is gone after the block, whatever happened in it, with its temporary folder; also where this
    process is killed. What its actors have printed is copied to `logs` where the block raises. A Ray attached to is
    left running; only the places are given back.
    Raises: ConfigError where cluster.address cannot be attached to or has no room.
    """
    with _attached(config.address) if config.address else _local(config.object_store_mb, logs):
        import ray

        resources = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        gpus = sum(node.get("GPU", 0) for node in resources)
        if config.address or gpus:
            with place(resources, ranks, workers) as (learner, rollout):
                yield Cluster(learner, rollout)
        else:
            yield Cluster(in_place(ranks), in_place(workers))


@contextmanager
def _local(object_store_mb: int, logs: Path | None) -> Iterator[None]:
    os.environ.update(_ENVIRONMENT)
    _guard()
    unset = "RAY_AUTH_MODE" not in os.environ
    import ray

    with cleaned_up() as folder:
        before = set(psutil.Process().children())
        try:
            start_ray(
                address="local",  # also where RAY_ADDRESS is set
                num_cpus=available_cores(),
                object_store_memory=object_store_mb << 20,
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.ERROR,
                _temp_dir=str(folder),
            )
            yield
        except Exception:
            if logs:
                _keep_logs(folder, logs)
            raise
        finally:
            if unset:
                os.environ.pop("RAY_AUTH_MODE", None)  # Ray has set it, for this cluster
            started = set(psutil.Process().children()) - before  # also those of a start that was interrupted
            processes = [*started, *(process for parent in started for process in _descendants(parent))]
            ray.shutdown()
            _end(processes)


def _keep_logs(folder: Path, logs: Path) -> None:
    """Copy what Ray's workers have printed; where the disk is full, as much as fits."""
    for log in sorted(folder.glob("session_2*/logs/worker-*")):
        with suppress(OSError):
            if log.stat().st_size:
                logs.mkdir(exist_ok=True)
                shutil.copy(log, logs)


def _guard() -> None:
    """Keep other users of the machine out, by a token of this process alone unless the user has a say about it.

    Left to itself, Ray would write one to the home folder, and every `ray start` after that would ask for it.
    """
    if not os.environ.keys() & {"RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"}:
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)


def _descendants(parent: psutil.Process) -> list[psutil.Process]:
    try:
        return parent.children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def _end(processes: list[psutil.Process]) -> None:
    """Wait for processes that were told to end, and kill those that do not."""
    _, alive = psutil.wait_procs(processes, timeout=_SHUTDOWN_S)
    for process in alive:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            pass
    psutil.wait_procs(alive, timeout=_SHUTDOWN_S)


@contextmanager
def _attached(address: str) -> Iterator[None]:
    os.environ.update(_ENVIRONMENT)
    check_address(address)
    import ray

    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except Exception as error:  # Ray raises many kinds here; each means that this cluster cannot be used
        hint = (
            ""
            if "RAY_AUTH_MODE" in os.environ
            else "; a cluster that wants a token is reached with RAY_AUTH_MODE=token"
        )
        raise ConfigError(f"cluster.address={address}: {first_line(error)}{hint}") from error
    try:
        _check_actors_live(address)
        yield
    finally:
        ray.shutdown()


class _Probe:
    """An actor that does nothing."""


def _check_actors_live(address: str) -> None:
    """Raises ConfigError where the cluster ends this program's actors at once, as one of another token mode does.

    It can't ask the program whether they are still wanted then, and takes that for a no.
    """
    import ray

    actor: Any = ray.remote(num_cpus=0)(_Probe)
    probe = actor.remote()
    try:
        ray.get(probe.__ray_ready__.remote())
    except ray.exceptions.RayActorError as error:
        raise ConfigError(
            f"cluster.address={address}: the cluster ends this program's actors before they run; it may have been "
            f"started with another RAY_AUTH_MODE than this program's ({os.environ.get('RAY_AUTH_MODE', 'none')})"
        ) from error


def check_address(address: str, timeout_s: float = 5.0) -> None:
    """Raises ConfigError unless a gRPC server answers at `host:port`; `auto` passes, for Ray finds that by itself.

    Ray's own attempt would last minutes where something else listens.
    """
    if address == "auto":
        return
    host, colon, port = address.rpartition(":")
    if "://" in address or not colon or not port.isdigit():
        raise ConfigError(
            f"cluster.address={address}: must be host:port of the cluster's head, as `ray start` prints it, or auto"
        )
    try:
        socket.create_connection((host, int(port)), timeout_s).close()
        if os.environ.get("RAY_USE_TLS", "0") == "0":
            with grpc.insecure_channel(address) as channel:
                grpc.channel_ready_future(channel).result(timeout_s)
    except (OSError, OverflowError, grpc.FutureTimeoutError) as error:
        reason = str(error) or "what listens there is no Ray"
        raise ConfigError(f"cluster.address={address}: no Ray cluster answers there: {reason}") from None
