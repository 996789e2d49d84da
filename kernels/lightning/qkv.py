"""Lightning attention from its projection on: silu, the cut into heads, the attention itself."""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_cispo.kernels.lightning.attention import lightning_attention
from lightning_cispo.kernels.native.library import serves
from lightning_cispo.kernels.silu import silu_qkv


def silu_lightning(
    qkv_TJ: Tensor,
    slopes_H: Tensor,
    cu_seqlens: Tensor,
    initial_state: Tensor | None = None,
    output_final_state: bool = False,
    checked: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """Lightning attention of silu(qkv), for rows [T, H * 3 D] that hold q, k and v of one head after the other.

    The other arguments, what is returned and what is raised: as `kernels.lightning.lightning_attention`. Native on CPUs
    in float32, but for gradients where a state is given or asked for.
    """
    with_state = initial_state is not None or output_final_state
    states = [] if initial_state is None else [initial_state]
    if serves(qkv_TJ, *states) and not (with_state and torch.is_grad_enabled()):
        from lightning_cispo.kernels.native.train import Lightning

        if int(cu_seqlens[-1]) != len(qkv_TJ):
            raise ValueError(f"cu_seqlens ends at {int(cu_seqlens[-1])}, but there are {len(qkv_TJ)} tokens")
        return Lightning.apply(qkv_TJ, slopes_H, cu_seqlens, initial_state, output_final_state)
    return lightning_attention(
        *silu_qkv(qkv_TJ, len(slopes_H)), slopes_H, cu_seqlens, initial_state, output_final_state, checked
    )
