"""Checks that a version of the weights is whole and finite, before it is handed on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

import torch
from torch import Tensor


class NonFiniteWeights(ValueError):
    """A weight is NaN or infinite. The message names the parameter."""


def finite(named: Iterable[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
    """Pass named tensors on. Raises NonFiniteWeights at the first one with a NaN or an infinity."""
    for name, tensor in named:
        if not fits(tensor, tensor.dtype):
            raise NonFiniteWeights(f"{name}: holds NaN or infinity")
        yield name, tensor


def fits(tensor: Tensor, dtype: torch.dtype) -> bool:
    """Whether every value is finite, in `dtype` too. One pass that allocates nothing; waits for the device."""
    if not tensor.numel():
        return True
    least, most = tensor.detach().aminmax()
    largest = torch.finfo(dtype).max
    return bool((least >= -largest) & (most <= largest))  # false of NaN, which aminmax passes on


def unfit(parameters: Mapping[str, Tensor], given: Sequence[tuple[str, Tensor]]) -> str | None:
    """Why `given` is no version of `parameters`, in one line; None if it is one, complete and finite."""
    names: set[str] = set()
    for name, tensor in given:
        if name not in parameters or parameters[name].shape != tensor.shape:
            return f"{name} {list(tensor.shape)}: no parameter of this name and shape"
        if name in names:
            return f"{name}: given twice"
        names.add(name)
    if missing := [name for name in parameters if name not in names]:
        return f"incomplete: {len(missing)} of {len(parameters)} parameters are missing, the first is {missing[0]}"
    broken = next((name for name, tensor in given if not fits(tensor, parameters[name].dtype)), None)
    return None if broken is None else f"{broken}: holds NaN, infinity, or more than {parameters[broken].dtype} can"
