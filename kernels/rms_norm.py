"""RMSNorm, alone or under a sigmoid gate."""

from __future__ import annotations

import torch
from torch import Tensor

from kernels.native import serves


def rms_norm(x_TX: Tensor, weight_X: Tensor, eps: float, gate_TX: Tensor | None = None) -> Tensor:
    """weight * (x / rms(x)) with the sum in float32 or better, cast back before the weight (Llama's order).

    With a gate, that times sigmoid(gate). Rows of any shape [..., X], the result in x's dtype. Triton on CUDA without
    gradient, native on CPUs in float32, elsewhere the torch reference.
    """
    if x_TX.dim() == 2 and serves(x_TX, weight_X, *([] if gate_TX is None else [gate_TX])):
        from kernels.native_train import Norm

        return Norm.apply(x_TX, weight_X, gate_TX, eps)
    if x_TX.is_cuda and x_TX.dim() == 2 and x_TX.dtype != torch.float64 and not torch.is_grad_enabled():
        from kernels.rms_norm_triton import rms_norm_triton

        normed = rms_norm_triton(x_TX.contiguous(), weight_X, eps)
    else:
        normed = rms_norm_reference(x_TX, weight_X, eps)
    return normed if gate_TX is None else torch.sigmoid(gate_TX) * normed


def rms_norm_reference(x_TX: Tensor, weight_X: Tensor, eps: float) -> Tensor:
    """The same in torch, without a gate."""
    wide = x_TX.to(torch.promote_types(x_TX.dtype, torch.float32))
    normed = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)
    return weight_X.to(x_TX.dtype) * normed.to(x_TX.dtype)
