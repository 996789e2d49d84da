"""RMSNorm, alone, under a sigmoid gate, or of a residual's sum.

One Triton kernel forward and one backward on CUDA, native on CPUs in float32; elsewhere, and in float64, the torch
references. Sums run in float32 or better; results are rounded where the references round.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kernels.native.library import serves


def rms_norm(x_TX: Tensor, weight_X: Tensor, eps: float, gate_TX: Tensor | None = None) -> Tensor:
    """weight * (x / rms(x)), cast back before the weight (Llama's order); with a gate, that times sigmoid(gate).

    Rows of any shape [..., X], the result in x's dtype.
    """
    if x_TX.dim() == 2 and serves(x_TX, weight_X, *([] if gate_TX is None else [gate_TX])):
        from kernels.native.train import Norm

        return Norm.apply(x_TX, weight_X, gate_TX, eps)
    if _on_device(x_TX):
        from kernels.rms_norm_triton import GatedRMSNorm, RMSNorm

        if gate_TX is None:
            return RMSNorm.apply(x_TX, weight_X, eps)[0]
        return GatedRMSNorm.apply(x_TX, gate_TX, weight_X, eps)
    normed = rms_norm_reference(x_TX, weight_X, eps)
    return normed if gate_TX is None else torch.sigmoid(gate_TX) * normed


def rms_norm_reference(x_TX: Tensor, weight_X: Tensor, eps: float) -> Tensor:
    """The same in torch, without a gate."""
    wide = x_TX.to(torch.promote_types(x_TX.dtype, torch.float32))
    normed = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)
    return weight_X.to(x_TX.dtype) * normed.to(x_TX.dtype)


def twin_rms_norm(x_TX: Tensor, weight_X: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """The norm for two readers: on CUDA their gradients are added up where the norm's is computed."""
    if _on_device(x_TX):
        from kernels.rms_norm_triton import RMSNorm

        return RMSNorm.apply(x_TX, weight_X, eps)
    normed = rms_norm(x_TX, weight_X, eps)
    return normed, normed


def add_rms_norm(
    residual_TX: Tensor, update_TX: Tensor, scales: tuple[float, float], weight_X: Tensor, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """x = alpha * residual + beta * update, with `scales` = (alpha, beta), and its norm for two readers."""
    if _on_device(update_TX):
        from kernels.rms_norm_triton import AddRMSNorm

        return AddRMSNorm.apply(residual_TX, update_TX, scales, weight_X, eps)
    x_TX = scaled_sum(residual_TX, update_TX, scales)
    normed_TX = rms_norm(x_TX, weight_X, eps)
    return x_TX, normed_TX, normed_TX


def scaled_sum(residual: Tensor, update: Tensor, scales: tuple[float, float]) -> Tensor:
    alpha, beta = scales
    return torch.add(update if beta == 1 else update * beta, residual, alpha=alpha)


def _on_device(x_TX: Tensor) -> bool:
    return x_TX.is_cuda and x_TX.dim() == 2 and x_TX.dtype != torch.float64
