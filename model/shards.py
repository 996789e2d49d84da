"""Safetensors files of a checkpoint folder: reading any part of any tensor, writing one shard at a time."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open

from lightning_cispo.model.hf_config import CheckpointError

if TYPE_CHECKING:
    from torch import Tensor

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"


class ShardReader:
    """Every tensor of a folder by key. Opening it reads and checks all headers; data are mapped, not read, until used.

    With the framework "np" torch isn't loaded: headers alone can be looked at, as NumPy has no bf16.

    Raises: CheckpointError for a truncated, missing or unlisted shard, or an index that contradicts the shards.
    """

    def __init__(self, folder: str | Path, framework: str = "pt"):
        self.folder, self.framework = Path(folder), framework
        self.files: dict[str, str] = {}
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.dtypes: dict[str, str] = {}  # as safetensors spells them: F32, BF16, ...
        self._open: tuple[str, Any] = ("", None)
        index = self._index()
        for file in sorted(set(index.values())) if index is not None else [SINGLE]:
            handle = self._handle(file)
            for key in handle.keys():
                self.files[key] = file
                header = handle.get_slice(key)
                self.shapes[key], self.dtypes[key] = tuple(header.get_shape()), header.get_dtype()
        if index is not None and index != self.files:
            wrong = sorted(key for key in {*index, *self.files} if index.get(key) != self.files.get(key))
            raise CheckpointError(f"{self.folder / INDEX}: contradicts the shards: {listed(wrong)}")

    def _index(self) -> dict[str, str] | None:
        path = self.folder / INDEX
        if not path.exists():
            if not (self.folder / SINGLE).exists():
                raise CheckpointError(f"{self.folder}: has neither {SINGLE} nor {INDEX}")
            return None
        try:
            index = dict(json.loads(path.read_text())["weight_map"])
        except (ValueError, KeyError, TypeError) as error:
            raise CheckpointError(f"{path}: not a weight index: {error!r}") from None
        unlisted = sorted({x.name for x in self.folder.glob("model-*.safetensors")} - set(index.values()))
        if unlisted:
            raise CheckpointError(f"{path}: does not list the shards {listed(unlisted)}")
        absent = sorted(file for file in set(index.values()) if not (self.folder / file).exists())
        if absent:
            raise CheckpointError(f"{path}: lists shards that are not there: {listed(absent)}")
        return index

    def _handle(self, file: str) -> Any:
        if self._open[0] != file:
            try:
                self._open = (file, safe_open(self.folder / file, self.framework))
            except (SafetensorError, OSError) as error:
                raise CheckpointError(f"{self.folder / file}: truncated or not safetensors: {error}") from None
        return self._open[1]

    def flat(self, key: str, start: int = 0, stop: int | None = None) -> Tensor:
        """Elements [start, stop) of the flattened tensor, in its stored dtype; only their pages are read."""
        return self._handle(self.files[key]).get_tensor(key).view(-1)[start:stop]


class ShardWriter:
    """Shards of at most `max_bytes` (one larger tensor makes its own), named when their number is known."""

    def __init__(self, folder: Path, max_bytes: int):
        self.folder, self.max_bytes = folder, max_bytes
        self.shards: list[list[str]] = []
        self.total_bytes = 0
        self._pending: dict[str, Tensor] = {}
        self._pending_bytes = 0

    def add(self, key: str, tensor: Tensor) -> None:
        if self._pending and self._pending_bytes + tensor.nbytes > self.max_bytes:
            self._flush()
        import torch

        # A copy, as the caller may reuse or free its memory before the shard is full.
        self._pending[key] = torch.empty(tensor.shape, dtype=tensor.dtype).copy_(tensor)
        self._pending_bytes += tensor.nbytes
        self.total_bytes += tensor.nbytes

    def _flush(self) -> None:
        from safetensors.torch import save_file

        save_file(self._pending, self._unnamed(len(self.shards)), metadata={"format": "pt"})
        self.shards.append(list(self._pending))
        self._pending, self._pending_bytes = {}, 0

    def _unnamed(self, number: int) -> Path:
        return self.folder / f"shard-{number}"

    def close(self) -> None:
        """Write the last shard and, beside several, the index."""
        self._flush()
        count = len(self.shards)
        if count == 1:
            self._unnamed(0).rename(self.folder / SINGLE)
            return
        weight_map = {}
        for number, keys in enumerate(self.shards):
            file = f"model-{number + 1:05d}-of-{count:05d}.safetensors"
            self._unnamed(number).rename(self.folder / file)
            weight_map.update(dict.fromkeys(keys, file))
        index = {"metadata": {"total_size": self.total_bytes}, "weight_map": weight_map}
        (self.folder / INDEX).write_text(json.dumps(index, indent=2) + "\n")


def listed(names: list[str], most: int = 40) -> str:
    """Names in one line, the tail of a long list as a count."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
