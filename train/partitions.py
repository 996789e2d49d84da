"""The network on a learner rank: whole or, under ZeRO-3, one partition of every parameter."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lightning_cispo.configs.schema import ModelConfig
from lightning_cispo.model import checkpoint
from lightning_cispo.model.network import MiniMax
from lightning_cispo.model.partition import is_partitioned


def build_network(
    config: ModelConfig,
    dtype: torch.dtype,
    weights: str | None,
    seed: int,
    settings: dict[str, Any],
    exact: bool = False,
) -> MiniMax:
    """The network with weights from a Hugging Face folder, or random ones; activations run in `dtype`.

    `settings` are DeepSpeed's. Under stage 3 a module's parameters are cut up as soon as the module is made, and every
    rank reads or draws its own partitions: no rank ever holds more than these and one parameter.
    """
    context: AbstractContextManager[Any] = nullcontext()
    if settings["zero_optimization"]["stage"] == 3:
        from deepspeed import zero

        # Its dtype is float32 where the settings name no other; asking for float32 by name gives bf16 on CPU.
        context = zero.Init(config_dict_or_path=settings)
    with context:
        network = MiniMax(config, dtype, exact)
    if weights is None:
        network.initialize(seed)
    else:
        checkpoint.load(Path(weights), network, verify=False)  # the driver has: not every rank all of it
    return network


def whole_parameters(network: MiniMax) -> Iterator[tuple[str, Tensor]]:
    """Every parameter in full, one at a time: each is given up before the next is gathered.

    Under ZeRO-3 all ranks must exhaust the iterator together.
    """
    for name, parameter in network.named_parameters():
        if is_partitioned(parameter):
            from deepspeed import zero

            with zero.GatheredParameters([parameter]):
                yield name, parameter.detach()
        else:
            yield name, parameter.detach()
