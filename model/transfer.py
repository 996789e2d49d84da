"""From the host to a device that is busy."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor


def on_device(numbers: Any, device: torch.device, dtype: Any = np.int64) -> Tensor:
    """Numbers on their way to the device, which goes on with what it is doing; nobody waits. `dtype`: numpy's, None for
    the numbers' own."""
    host = torch.as_tensor(np.asarray(numbers, dtype))
    return host.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else host
