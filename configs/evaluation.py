"""What an evaluation takes over from the run that trained its weights, unless the command line says otherwise."""

from __future__ import annotations

from functools import reduce
from operator import getitem
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from lightning_cispo.configs.errors import ConfigError
from lightning_cispo.configs.file import read_yaml

# How prompts look and responses are drawn and judged: a policy is measured as it was trained.
_ALWAYS = (
    "seed",
    "sampling",
    "evaluation",
    "rewards",
    "learner.precision",
    "learner.exact",
    "data.chat_template",
    "data.instruction",
    "data.system",
    "data.max_prompt_tokens",
)
# Taken over as well where neither `data=` nor `experiment=` chooses something else to evaluate on.
_DATA = "data"


def run_of(checkpoint: str) -> Path | None:
    """The folder of the run that `checkpoint` belongs to: itself, or one whose checkpoints/ it lies in."""
    path = Path(checkpoint).resolve()
    for folder in (path, *path.parents[:3]):
        inside = folder == path or folder / "checkpoints" in (path, *path.parents)
        if inside and (folder / "config.yaml").is_file() and (folder / "checkpoints").is_dir():
            return folder
    return None


def take_over(config: DictConfig, typed: dict[str, Any]) -> None:
    """Set in `config` what the checkpoint's run has. `typed` are the command line's keys and groups with their values.

    What was typed comes after this, and so wins. Raises ConfigError.
    """
    if "sampling.temperature" in typed:
        raise ConfigError("sampling.temperature: an evaluation samples at evaluation.temperature; set that instead")
    run = run_of(str(typed["checkpoint"])) if typed.get("checkpoint") else None
    if run is None:
        return
    stored: Any = OmegaConf.to_container(read_yaml(run / "config.yaml"), resolve=False)  # escaped texts stay so
    keys = _ALWAYS if {"data", "experiment"} & typed.keys() else (*_ALWAYS, _DATA)
    for key in keys:
        OmegaConf.update(config, key, reduce(getitem, key.split("."), stored))
    config.name = run.name


def drop_training_data(config: DictConfig) -> None:
    """Leave out what only training would read, where there is a source of its own to evaluate on."""
    if config.data.eval:
        config.data.train, config.data.tasks = None, []
