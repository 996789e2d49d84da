"""Where weights come from (a folder in Hugging Face's format, a checkpoint of a run, or a run), and how they travel."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from lightning_cispo.configs.schema import ModelConfig, RunConfig
from lightning_cispo.model.folders import weights_folder
from lightning_cispo.model.hf_config import read_config
from lightning_cispo.train.state import RunState, load_state

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

_PART_BYTES = 1 << 28


def weights_state(path: str) -> RunState | None:
    """How far the run had come that saved the weights of `path`; None for weights that no run's checkpoint holds."""
    checkpoint = weights_folder(path).parent
    return load_state(checkpoint) if (checkpoint / "state.json").exists() else None


def network_config(config: RunConfig) -> ModelConfig:
    """The network's shape: the `model` section's, or the checkpoint's where that is asked for."""
    if config.model.from_checkpoint:
        assert config.checkpoint is not None  # configs.check
        return read_config(weights_folder(config.checkpoint))
    return config.model


def tokenizer_name(config: RunConfig) -> str:
    """What `load_tokenizer` takes for data.tokenizer, whose value "checkpoint" means the one beside the weights."""
    if config.data.tokenizer == "checkpoint":
        assert config.checkpoint is not None  # configs.check
        return str(weights_folder(config.checkpoint))
    return config.data.tokenizer


def in_parts(named: Iterable[tuple[str, Tensor]]) -> Iterator[dict[str, np.ndarray]]:
    """The tensors as float32 arrays of their own, by name, in parts of about 256 MiB: no process holds them all."""
    part: dict[str, np.ndarray] = {}
    size = 0
    for name, tensor in named:
        part[name] = tensor.float().cpu().numpy().copy()
        size += part[name].nbytes
        if size >= _PART_BYTES:
            yield part
            part, size = {}, 0
    if part:
        yield part
