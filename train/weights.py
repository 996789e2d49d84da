"""Where weights come from: a folder in Hugging Face's format, a checkpoint of a run, or a run."""

from __future__ import annotations

from pathlib import Path

from configs.schema import ModelConfig, RunConfig
from model.hf_config import read_config
from train.state import finished_checkpoints


def weights_folder(path: str) -> Path:
    """The folder with config.json that `path` means: itself, its `model/`, or that of a run's newest checkpoint."""
    folder = Path(path).resolve()  # actors on other nodes have another working directory
    if (folder / "config.json").exists():
        return folder
    if (folder / "model" / "config.json").exists():
        return folder / "model"
    checkpoints = finished_checkpoints(folder / "checkpoints")
    return checkpoints[-1] / "model" if checkpoints else folder


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
