"""Check a checkpoint's headers against the network that reads it, before any tensor is read. Needs no torch."""

from __future__ import annotations

from pathlib import Path

from lightning_cispo.configs.schema import ModelConfig
from lightning_cispo.model.hf_config import CheckpointError
from lightning_cispo.model.layout import IGNORED, parameter_shapes, pieces
from lightning_cispo.model.shards import ShardReader, listed

_DTYPES = ("F64", "F32", "F16", "BF16")


def checked_reader(folder: str | Path, config: ModelConfig, framework: str = "pt") -> ShardReader:
    """The folder's tensors, which are those of the configured network by key, shape and dtype.

    framework: "np" for a look at the headers that loads no torch.
    Raises: CheckpointError, one line that lists all that is wrong.
    """
    reader = ShardReader(folder, framework)
    wanted = {part.key: part.shape for name, shape in parameter_shapes(config).items() for part in pieces(name, shape)}
    found = {key: shape for key, shape in reader.shapes.items() if not IGNORED.search(key)}
    missing = sorted(wanted.keys() - found.keys())
    unexpected = sorted(found.keys() - wanted.keys())
    misshapen = [
        f"{key} {list(found[key])}, not {list(shape)}"
        for key, shape in wanted.items()
        if key in found and found[key] != shape
    ]
    quantized = [f"{key} {reader.dtypes[key]}" for key in sorted(found) if reader.dtypes[key] not in _DTYPES]
    raise_if_any(str(folder), missing=missing, unexpected=unexpected, misshapen=misshapen, quantized=quantized)
    return reader


def raise_if_any(source: str, **problems: list[str]) -> None:
    """Raises CheckpointError naming `source` and each kind of problem that has names."""
    if said := [f"{kind} ({len(names)}): {listed(names)}" for kind, names in problems.items() if names]:
        raise CheckpointError(f"{source}: {'; '.join(said)}")
