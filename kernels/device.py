"""What a device can do, asked once: torch takes microseconds to say it, and layers ask hundreds of times a pass."""

from __future__ import annotations

import functools

import torch


@functools.cache
def on_hopper(device: torch.device) -> bool:
    """Whose tensor memory accelerator and shared memory kernels count on."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device)[0] == 9
