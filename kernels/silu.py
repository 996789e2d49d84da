"""silu of a lightning layer's projection, and its parts q, k and v."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def silu_qkv(joined_TJ: Tensor, heads: int) -> tuple[Tensor, Tensor, Tensor]:
    """q, k, v of [T, heads, D], views of silu(joined [T, heads * 3 D]), where each head has its three side by side.

    One Triton kernel forward and one backward on CUDA; elsewhere, and in float64, torch.
    """
    dim = joined_TJ.shape[1] // (3 * heads)
    if joined_TJ.is_cuda and joined_TJ.element_size() < 8:
        from lightning_cispo.kernels.silu_triton import SiluQKV

        return SiluQKV.apply(joined_TJ, heads)
    q, k, v = F.silu(joined_TJ).view(len(joined_TJ), heads, 3 * dim).split(dim, dim=-1)
    return q, k, v
