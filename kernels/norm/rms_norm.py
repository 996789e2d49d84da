"""RMSNorm, alone or under a sigmoid gate, and as it stands between the residual stream and a layer.

The stream is in float32 where layers compute in 16 bits: what a layer reads is rounded, what goes by it is not, so that
a sampler, whose sums have another order, chooses the same experts. One Triton kernel forward and one backward on CUDA,
native on CPUs in float32; elsewhere, and in float64, the torch references. Sums run in float32 or better.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_cispo.kernels.native.library import serves

Scales = tuple[float, float]  # alpha, beta: of the residual, of what is added to it


def rms_norm(
    x_TX: Tensor, weight_X: Tensor, eps: float, gate_TX: Tensor | None = None, dtype: torch.dtype | None = None
) -> Tensor:
    """weight * (x / rms(x)), cast back before the weight (Llama's order); with a gate, that times sigmoid(gate).

    Rows of any shape [..., X]. The result is in x's dtype, or rounded once to a narrower `dtype` (without a gate), to
    which the weight is rounded then.
    """
    same = dtype in (None, x_TX.dtype)
    if same and x_TX.dim() == 2 and serves(x_TX, weight_X, *([] if gate_TX is None else [gate_TX])):
        from lightning_cispo.kernels.native.train import Norm

        return Norm.apply(x_TX, weight_X, gate_TX, eps)
    if _on_device(x_TX):
        from lightning_cispo.kernels.norm.launch import GatedRMSNorm, RMSNorm

        if gate_TX is None:
            return RMSNorm.apply(x_TX, weight_X, eps, dtype or x_TX.dtype)
        return GatedRMSNorm.apply(x_TX, gate_TX, weight_X, eps)
    normed = rms_norm_reference(x_TX, weight_X, eps, dtype)[1]
    return normed if gate_TX is None else torch.sigmoid(gate_TX) * normed


def rms_norm_reference(
    x_TX: Tensor, weight_X: Tensor, eps: float, dtype: torch.dtype | None = None
) -> tuple[Tensor, Tensor]:
    """The same in torch, without a gate: in x's dtype, and in `dtype`."""
    wide = x_TX.to(torch.promote_types(x_TX.dtype, torch.float32))
    normed = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)
    if dtype in (None, x_TX.dtype):
        normed = weight_X.to(x_TX.dtype) * normed.to(x_TX.dtype)
        return normed, normed
    normed = weight_X.to(dtype).to(x_TX.dtype) * normed.to(x_TX.dtype)
    return normed, normed.to(dtype)


def stream_norm(
    x_TX: Tensor, weight_X: Tensor, eps: float, dtype: torch.dtype, postnorm: bool
) -> tuple[Tensor, Tensor]:
    """What the residual goes on from, x or, post-norm, its norm, in x's dtype; and the norm in `dtype`."""
    if _on_device(x_TX):
        from lightning_cispo.kernels.norm.launch import StreamNorm

        return StreamNorm.apply(x_TX, weight_X, eps, dtype, postnorm)
    if dtype == x_TX.dtype and x_TX.dim() == 2 and serves(x_TX, weight_X):
        from lightning_cispo.kernels.native import train

        return train.StreamNorm.apply(x_TX, None, (1.0, 1.0), weight_X, eps, postnorm, 1)
    if dtype == x_TX.dtype:
        kept_TX = normed_TX = rms_norm(x_TX, weight_X, eps)
    else:
        kept_TX, normed_TX = rms_norm_reference(x_TX, weight_X, eps, dtype)
    return kept_TX if postnorm else x_TX, normed_TX


def added_stream_norm(
    residual_TX: Tensor, update_TX: Tensor, scales: Scales, weight_X: Tensor, eps: float, postnorm: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Of x = alpha * residual + beta * update: what the residual goes on from, x or its norm; the norm in the
    residual's dtype; and in the update's."""
    if _on_device(update_TX):
        from lightning_cispo.kernels.norm.launch import AddedStreamNorm

        return AddedStreamNorm.apply(residual_TX, update_TX, scales, weight_X, eps, postnorm)
    if update_TX.dim() == 2 and serves(residual_TX, update_TX, weight_X):
        from lightning_cispo.kernels.native import train

        return train.StreamNorm.apply(residual_TX, update_TX, scales, weight_X, eps, postnorm, 2)
    x_TX = scaled_sum(residual_TX, update_TX, scales)
    kept_TX, normed_TX = stream_norm(x_TX, weight_X, eps, update_TX.dtype, True)
    return kept_TX if postnorm else x_TX, kept_TX, normed_TX


def scaled_sum(residual_TX: Tensor, update_TX: Tensor, scales: Scales) -> Tensor:
    """alpha * residual + beta * update, in the residual's dtype."""
    alpha, beta = scales
    if residual_TX.dtype == update_TX.dtype:
        return torch.add(update_TX if beta == 1 else update_TX * beta, residual_TX, alpha=alpha)
    if _on_device(update_TX):
        from lightning_cispo.kernels.norm.launch import ScaledSum

        return ScaledSum.apply(residual_TX, update_TX, scales)
    return torch.add(update_TX.to(residual_TX.dtype) * beta, residual_TX, alpha=alpha)


def _on_device(x_TX: Tensor) -> bool:
    return x_TX.is_cuda and x_TX.dim() == 2 and x_TX.dtype != torch.float64
