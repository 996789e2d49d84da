"""Which actor sits on which machine of a cluster, and what part of its CPUs and GPUs it takes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from lightning_cispo.configs.errors import ConfigError

# Of a GPU that a learner rank and rollout workers share: above a half, so that two ranks never meet on one.
_RANK_SHARE = 0.6
_WAIT_S = 60.0


def in_place(count: int) -> list[dict[str, Any]]:
    """Actor options on a single machine without GPUs: the actors share its cores by their thread counts."""
    return [{"num_cpus": 0} for _ in range(count)]


@contextmanager
def place(
    nodes: Sequence[Mapping[str, float]], ranks: int, workers: int
) -> Iterator[tuple[list[dict[str, Any]], list[dict[str, Any]]]]:
    """Reserved places as actor options, ranks' and workers', given back after the block.

    Ranks with GPUs are packed, for the links between them; all else is spread over the nodes. `nodes` are the resources
    of each. Raises ConfigError when the cluster has no room.
    """
    from ray.util.placement_group import placement_group, remove_placement_group
    from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

    cpu = cpu_share([node.get("CPU", 0) for node in nodes], ranks + workers)
    rank_gpu, worker_gpu = gpu_shares(int(sum(node.get("GPU", 0) for node in nodes)), ranks, workers)
    groups: list[Any] = []
    options: list[list[dict[str, Any]]] = []
    try:
        for count, gpu in ((ranks, rank_gpu), (workers, worker_gpu)):
            if not count:
                options.append([])
                continue
            bundle = {"CPU": cpu, "GPU": gpu} if gpu else {"CPU": cpu}
            groups.append(placement_group([bundle] * count, strategy="PACK" if gpu and not options else "SPREAD"))
            if not groups[-1].wait(_WAIT_S):
                raise ConfigError(
                    f"cluster.address: the cluster has no room for {count} actors with {bundle} each; is it busy?"
                )
            options.append(
                [
                    {
                        "num_cpus": cpu,
                        "num_gpus": gpu,
                        "scheduling_strategy": PlacementGroupSchedulingStrategy(
                            groups[-1], placement_group_bundle_index=i
                        ),
                    }
                    for i in range(count)
                ]
            )
        yield options[0], options[1]
    finally:
        for group in groups:
            remove_placement_group(group)


def cpu_share(cpus: Sequence[float], actors: int) -> float:
    """The largest of 1, 1/2, 1/4 ... of a CPU that every actor can have. Raises ConfigError if there is none."""
    for halvings in range(8):
        share = 0.5**halvings
        if sum(math.floor(count / share) for count in cpus) >= actors:
            return share
    raise ConfigError(f"cluster.address: the cluster's {sum(cpus):g} CPUs cannot hold {actors} actors")


def gpu_shares(gpus: int, ranks: int, workers: int) -> tuple[float, float]:
    """GPUs of a learner rank and of a rollout worker: whole ones while they last, else workers share the ranks'."""
    if gpus == 0:
        return 0, 0
    if gpus >= ranks + workers:
        return 1, 1
    if gpus < ranks:
        raise ConfigError(f"learner.world_size={ranks}: there are only {gpus} GPUs")
    left = (1 - _RANK_SHARE) if ranks else 1.0
    return _RANK_SHARE, math.floor(1000 * left / math.ceil(workers / gpus)) / 1000
