"""The experts' SwiGLU over tokens sorted by expert: gather, grouped GEMM, weighted scatter."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def moe_experts(x_TX: Tensor, expert_TK: Tensor, weight_TK: Tensor, gate_up_EJX: Tensor, down_EXI: Tensor) -> Tensor:
    """y_t = sum over its K experts of weight * down(silu(gate x) * up x); no token is ever dropped. The torch
    reference.

    Args:
        x_TX: [T, X]; expert_TK: int64 [T, K]; weight_TK: [T, K] in float32 or float64.
        gate_up_EJX: [E, 2 I, X], gate rows first; down_EXI: [E, X, I].
    Returns: [T, X] in x's dtype.
    """
    top_k = expert_TK.shape[1]
    order = expert_TK.flatten().argsort(stable=True)
    token = order // top_k
    counts = torch.bincount(expert_TK.flatten(), minlength=gate_up_EJX.shape[0]).tolist()
    outputs = []
    for rows, gate_up, down in zip(x_TX[token].split(counts), gate_up_EJX, down_EXI, strict=True):
        gate, up = F.linear(rows, gate_up.to(x_TX.dtype)).chunk(2, dim=-1)
        outputs.append(F.linear(F.silu(gate) * up, down.to(x_TX.dtype)))
    weighted = torch.cat(outputs) * weight_TK.flatten()[order, None].to(x_TX.dtype)
    return torch.zeros_like(x_TX).index_add(0, token, weighted)
