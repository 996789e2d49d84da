"""How a cluster's CPUs and GPUs are shared out."""

from __future__ import annotations

import pytest

from lightning_cispo.configs.errors import ConfigError
from lightning_cispo.train.cluster.placement import cpu_share, gpu_shares


def test_cpu_shares_halve_until_all_fit_on_single_nodes():
    assert cpu_share([8, 8], 4) == 1
    assert cpu_share([1, 1], 4) == 0.5
    assert cpu_share([1.5, 1.5], 4) == 0.5  # three halves a node, not one and a half
    with pytest.raises(ConfigError, match="2 CPUs cannot hold 1000 actors"):
        cpu_share([1, 1], 1000)


@pytest.mark.parametrize(("gpus", "ranks", "workers"), [(8, 4, 4), (4, 4, 4), (2, 2, 3), (1, 1, 2), (3, 2, 2)])
def test_gpu_shares_fit_and_never_put_two_ranks_on_one(gpus, ranks, workers):
    rank, worker = gpu_shares(gpus, ranks, workers)
    assert 0.5 < rank <= 1 and worker > 0
    if gpus < ranks + workers:
        assert rank + worker * -(-workers // gpus) <= 1


def test_gpu_shares_at_the_edges():
    assert gpu_shares(0, 2, 2) == (0, 0)
    assert gpu_shares(2, 1, 1) == (1, 1)
    with pytest.raises(ConfigError, match="learner.world_size=4: there are only 2 GPUs"):
        gpu_shares(2, 4, 1)
