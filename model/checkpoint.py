"""Hugging Face checkpoints of the network: `load`, `save`, and `read` for whoever wants the tensors alone.

On disk stand the release's key names, which transformers reads too. Nothing is copied before every key, shape and file
length has been checked. Saving and loading hold one shard or one parameter beside the model.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lightning_cispo.configs.schema import ModelConfig
from lightning_cispo.model.aside import written_aside
from lightning_cispo.model.checksums import damaged, write_checksums
from lightning_cispo.model.hf_config import CheckpointError, differences, read_config, to_hf
from lightning_cispo.model.intact import fits
from lightning_cispo.model.layout import Piece, is_router, parameter_shapes, pieces
from lightning_cispo.model.partition import local_part
from lightning_cispo.model.shard_check import checked_reader, raise_if_any
from lightning_cispo.model.shards import ShardReader, ShardWriter, listed

__all__ = ["CheckpointError", "load", "read", "read_config", "save"]


def read(folder: str | Path, verify: bool = True) -> Iterator[tuple[str, Tensor]]:
    """In-memory names and full tensors, in the stored dtype, one parameter at a time.

    `verify`: compare all files with the folder's checksums first, where it has any.
    Raises: CheckpointError, before the first tensor; for one that is not finite when its turn comes.
    """
    config = read_config(folder)
    reader = _checked(folder, config, verify)
    return _read(reader, config)


def _read(reader: ShardReader, config: ModelConfig) -> Iterator[tuple[str, Tensor]]:
    for name, shape in parameter_shapes(config).items():
        parts = pieces(name, shape)
        tensor = torch.empty(shape, dtype=reader.flat(parts[0].key, 0, 0).dtype)
        _fill(tensor.view(-1), 0, parts, reader)
        yield name, tensor


def load(folder: str | Path, network: nn.Module, verify: bool = True) -> None:
    """Fill the network's parameters, cast to their dtypes. `network.config` must define the checkpoint's function.

    Under `deepspeed.zero.Init` each rank reads its own partition and nothing else. Call it before
    `deepspeed.initialize`, which copies the weights into the optimizer.
    `verify`: compare all files with the folder's checksums first, where it has any.
    Raises: CheckpointError; the network is then untouched, or half filled where a value is not finite.
    """
    config: ModelConfig = network.config  # type: ignore[assignment]
    if wrong := differences(config, read_config(folder)):
        raise CheckpointError(f"{folder}: another model than the configured one: {'; '.join(wrong)}")
    reader = _checked(folder, config, verify)
    parameters = dict(network.named_parameters())
    if any(parameter.is_meta for parameter in parameters.values()):
        raise CheckpointError(f"{folder}: cannot be loaded into meta tensors; give them memory first (to_empty)")
    for name, shape in parameter_shapes(config).items():
        target, start = local_part(parameters[name])
        _fill(target, start, pieces(name, shape), reader)


def _fill(target_N: Tensor, start: int, parts: list[Piece], reader: ShardReader) -> None:
    """Copy elements [start, start + N) of the concatenated parts; a target reaching past their end keeps its tail.

    Raises CheckpointError where a value is not finite in the target's dtype.
    """
    offset, stop = 0, start + len(target_N)
    for part in parts:
        low, high = max(start, offset), min(stop, offset + part.numel)
        if low < high:
            own_N = target_N[low - start : high - start]
            own_N.copy_(reader.flat(part.key, low - offset, high - offset))
            if not fits(own_N, own_N.dtype):
                raise CheckpointError(
                    f"{reader.folder}: {part.key}: holds NaN, infinity, or more than {own_N.dtype} can"
                )
        offset += part.numel


def _checked(folder: str | Path, config: ModelConfig, verify: bool) -> ShardReader:
    reader = checked_reader(folder, config)
    if wrong := damaged(Path(folder)) if verify else []:
        raise CheckpointError(f"{folder}: damaged: {listed(wrong)}")
    return reader


def save(
    folder: str | Path,
    config: ModelConfig,
    tensors: Iterable[tuple[str, Tensor]],
    tokenizer: Any = None,
    dtype: torch.dtype | None = None,
    max_shard_bytes: int = 5_000_000_000,
) -> None:
    """Write weights, config.json, the tokenizer's files and checksums; `folder` is replaced as a whole, or not at all.

    Args:
        tensors: in-memory names with full tensors on any device, as `network.named_parameters()` gives them. Each
            is used up before the next is asked for.
        tokenizer: of transformers; its eos and bos go into config.json.
        dtype: store in this one; None keeps each tensor's. Router weights are float32 always.
    Raises: CheckpointError if the tensors aren't exactly the config's.
    """
    shapes = parameter_shapes(config)
    given: set[str] = set()
    bytes_by_dtype: Counter[torch.dtype] = Counter()
    with written_aside(folder) as aside:
        writer = ShardWriter(aside, max_shard_bytes)
        for name, tensor in tensors:
            if name not in shapes or tuple(tensor.shape) != shapes[name] or name in given:
                wanted = "given twice" if name in given else f"wanted is {shapes.get(name, 'no such parameter')}"
                raise CheckpointError(f"{folder}: not saved: {name} {list(tensor.shape)}: {wanted}")
            given.add(name)
            stored = torch.float32 if is_router(name) else dtype or tensor.dtype
            bytes_by_dtype[stored] += tensor.nbytes
            flat, offset = tensor.detach().reshape(-1), 0
            for part in pieces(name, shapes[name]):
                writer.add(part.key, flat[offset : offset + part.numel].view(part.shape).to(stored))
                offset += part.numel
        raise_if_any(f"{folder}: not saved", missing=sorted(shapes.keys() - given))
        writer.close()
        described = to_hf(config, *_token_ids(tokenizer))
        described["dtype"] = str(bytes_by_dtype.most_common(1)[0][0]).removeprefix("torch.")
        (aside / "config.json").write_text(json.dumps(described, indent=2, sort_keys=True) + "\n")
        if tokenizer is not None:
            tokenizer.save_pretrained(aside)
        write_checksums(aside)


def _token_ids(tokenizer: Any) -> tuple[int | None, int | None]:
    return (None, None) if tokenizer is None else (tokenizer.bos_token_id, tokenizer.eos_token_id)
