"""What this process holds of a parameter: all or, under DeepSpeed's ZeRO-3, one partition. Imports no DeepSpeed."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def is_partitioned(parameter: Any) -> bool:
    return hasattr(parameter, "ds_tensor")


def local_part(parameter: Any) -> tuple[Tensor, int]:
    """The flat memory held of a parameter, and where in the whole it begins.

    The last partition may reach beyond the parameter's end.
    """
    if not is_partitioned(parameter):
        return parameter.data.view(-1), 0
    rank = torch.distributed.get_rank(parameter.ds_process_group)
    return parameter.ds_tensor.data, rank * parameter.ds_tensor.ds_numel
