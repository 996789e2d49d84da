"""The experts' SwiGLU over tokens sorted by expert: gather, grouped GEMM, weighted scatter."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from kernels.linear import linear

# From this many rows an expert on, each expert's rows are filled up to a multiple of _BLOCK: then few shapes occur.
_ROWS, _BLOCK = 256, 64


def moe_experts(x_TX: Tensor, expert_TK: Tensor, weight_TK: Tensor, gate_up_EJX: Tensor, down_EXI: Tensor) -> Tensor:
    """y_t = sum over its K experts of weight * down(silu(gate x) * up x); no token is ever dropped. The torch
    reference.

    Args:
        x_TX: [T, X]; expert_TK: int64 [T, K]; weight_TK: [T, K] in float32 or float64.
        gate_up_EJX: [E, 2 I, X], gate rows first; down_EXI: [E, X, I].
    Returns: [T, X] in x's dtype.
    """
    experts = len(gate_up_EJX)
    block = _BLOCK if expert_TK.numel() >= _ROWS * experts else 1
    token_P, weight_P, counts = _sort_by_expert(expert_TK, weight_TK.to(x_TX.dtype), experts, block)
    outputs = []
    for rows, gate_up, down in zip(x_TX.index_select(0, token_P).split(counts), gate_up_EJX, down_EXI, strict=True):
        gate, up = linear(rows, gate_up.to(x_TX.dtype), _BLOCK).chunk(2, dim=-1)
        outputs.append(linear(F.silu(gate) * up, down.to(x_TX.dtype), _BLOCK))
    return torch.zeros_like(x_TX).index_add(0, token_P, torch.cat(outputs) * weight_P[:, None])


def _sort_by_expert(expert_TK: Tensor, weight_TK: Tensor, experts: int, block: int) -> tuple[Tensor, Tensor, list[int]]:
    """Token and weight of every row, expert after expert, and each expert's number of rows, a multiple of `block`.

    Rows that fill up are token 0 with weight 0.
    """
    expert_R = expert_TK.flatten()
    order_R = expert_R.argsort(stable=True)
    token_R, weight_R = order_R // expert_TK.shape[1], weight_TK.flatten()[order_R]
    counts_E = torch.bincount(expert_R, minlength=experts)
    if block == 1:
        return token_R, weight_R, counts_E.tolist()
    filled_E = (counts_E + block - 1) // block * block
    shift_E = (filled_E - counts_E).cumsum(0) - (filled_E - counts_E)
    row_R = torch.arange(len(order_R), device=order_R.device) + shift_E[expert_R[order_R]]
    filled = filled_E.tolist()
    token_P = token_R.new_zeros(sum(filled)).index_copy(0, row_R, token_R)
    return token_P, weight_R.new_zeros(sum(filled)).index_copy(0, row_R, weight_R), filled
