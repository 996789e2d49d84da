"""AdamW's moments on a learner rank, to and from disk. The weights are not among them: `model/` holds these."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lightning_cispo.model.checksums import write_checksums

_FILE = "adamw.pt"


def save_optimizer(engine: Any, folder: Path) -> None:
    """Write what the engine's optimizer has accumulated, with checksums, synced to disk. `folder` is made."""
    base, updated = _optimizer(engine)
    folder.mkdir(parents=True)
    with open(folder / _FILE, "wb") as file:
        moments = [dict(base.state.get(parameter, {})) for parameter in updated]
        torch.save({"zero_stage": engine.zero_optimization_stage(), "moments": moments}, file)
        file.flush()
        os.fsync(file.fileno())
    write_checksums(folder)


def restore_optimizer(engine: Any, folder: Path) -> None:
    """Fill the engine's optimizer with what `save_optimizer` wrote for the same rank, world size and ZeRO stage.

    Raises RuntimeError where nothing is there or it belongs to another cut.
    """
    if not (folder / _FILE).is_file():
        raise RuntimeError(f"{folder}: holds no optimizer state of this rank")
    found = torch.load(folder / _FILE, map_location="cpu", weights_only=True, mmap=True)
    saved, stage = found["moments"], engine.zero_optimization_stage()
    base, updated = _optimizer(engine)
    if found["zero_stage"] != stage:
        raise RuntimeError(f"{folder}: was saved with learner.zero_stage={found['zero_stage']}, not {stage}")
    fits = len(saved) == len(updated) and all(
        value.shape == parameter.shape
        for parameter, state in zip(updated, saved)
        for value in state.values()
        if value.dim()  # all but AdamW's count of steps
    )
    if not fits:
        raise RuntimeError(f"{folder}: holds the moments of other parameters than this rank's")
    for parameter, state in zip(updated, saved, strict=True):
        held: dict[str, Tensor] = base.state[parameter]
        for name, value in state.items():
            if name in held:  # in place: DeepSpeed may hold it too
                held[name].copy_(value)
            else:
                held[name] = value.to(parameter.device, copy=True)


def _optimizer(engine: Any) -> tuple[Any, list[Tensor]]:
    """torch's optimizer and the tensors that it updates: parameters, or with ZeRO this rank's part of all of them."""
    zero = engine.optimizer
    base = getattr(zero, "optimizer", zero)
    # ZeRO-3 hands these to AdamW during a step only.
    partitions = getattr(zero, "fp32_partitioned_groups_flat", None)
    return base, partitions or [parameter for group in base.param_groups for parameter in group["params"]]
