"""A small network with known weights, for tests of checkpoints."""

from __future__ import annotations

import torch

from lightning_cispo.configs.schema import ModelConfig
from lightning_cispo.model.network import MiniMax

CONFIG = ModelConfig(hidden_size=32, intermediate_size=16, num_hidden_layers=4, softmax_every=4, head_dim=8)


def network(seed: int, config: ModelConfig = CONFIG) -> MiniMax:
    return MiniMax(config).initialize(seed)


def weights(of: MiniMax) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in of.named_parameters()}


def same(one: MiniMax, other: MiniMax) -> bool:
    theirs = weights(other)
    return all(torch.equal(tensor, theirs[name]) for name, tensor in weights(one).items())
