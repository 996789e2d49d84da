"""The experts' SwiGLU over tokens sorted by expert: gather, grouped GEMM, weighted scatter."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_cispo.kernels.device import on_hopper
from lightning_cispo.kernels.native.library import serves


def top_experts(logits_TE: Tensor, top_k: int) -> tuple[Tensor, Tensor]:
    """Shares [T, K] of the likeliest experts, which add up to 1, and which they are [T, K].

    Native on CPUs in float32, Triton on CUDA in float32, elsewhere torch.
    """
    if serves(logits_TE):
        from lightning_cispo.kernels.native.train import Route

        return Route.apply(logits_TE, top_k)
    if logits_TE.is_cuda and logits_TE.dtype == torch.float32:
        from lightning_cispo.kernels.experts.choice_triton import ChooseExperts

        return ChooseExperts.apply(logits_TE, top_k)
    weight_TK, expert_TK = logits_TE.softmax(-1).topk(top_k, dim=-1)
    return weight_TK / weight_TK.sum(-1, keepdim=True), expert_TK


def moe_experts(x_TX: Tensor, expert_TK: Tensor, weight_TK: Tensor, gate_up_EJX: Tensor, down_EXI: Tensor) -> Tensor:
    """y_t = sum over its K experts of weight * down(silu(gate x) * up x); no token is ever dropped.

    Native on CPUs in float32, Triton on Hopper GPUs in bf16, elsewhere torch.

    Args:
        x_TX: [T, X]; expert_TK: int64 [T, K]; weight_TK: [T, K] in float32 or float64.
        gate_up_EJX: [E, 2 I, X], gate rows first; down_EXI: [E, X, I].
    Returns: [T, X] in x's dtype.
    """
    if serves(x_TX, weight_TK, gate_up_EJX, down_EXI):
        from lightning_cispo.kernels.native.train import Experts

        return Experts.apply(x_TX, expert_TK, weight_TK, gate_up_EJX, down_EXI, torch.is_grad_enabled())
    if by_row(x_TX, down_EXI):
        from lightning_cispo.kernels.experts.train_triton import TrainedExperts

        return TrainedExperts.apply(x_TX, expert_TK, weight_TK, gate_up_EJX, down_EXI, torch.is_grad_enabled())
    return moe_experts_reference(x_TX, expert_TK, weight_TK, gate_up_EJX, down_EXI)


def by_row(x_TX: Tensor, down_EXI: Tensor) -> bool:
    """Whether `moe_experts` runs in kernels that give a row the same bits whatever other rows there are."""
    return x_TX.dtype == torch.bfloat16 and on_hopper(x_TX.device) and _groupable(x_TX, down_EXI)


def moe_experts_reference(
    x_TX: Tensor, expert_TK: Tensor, weight_TK: Tensor, gate_up_EJX: Tensor, down_EXI: Tensor
) -> Tensor:
    """The same in torch. With gradient it waits for the counts."""
    if not torch.is_grad_enabled() and _groupable(x_TX, down_EXI):
        return grouped_experts(x_TX, expert_TK, weight_TK, gate_up_EJX, down_EXI)
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


def routed_experts(x_TX: Tensor, logits_TE: Tensor, top_k: int, gate_up_EJX: Tensor, down_EXI: Tensor) -> Tensor | None:
    """Routing and experts of a decoding batch in few launches; None where that has no kernel of its own."""
    if not x_TX.is_cuda or torch.is_grad_enabled() or x_TX.dtype != torch.bfloat16:
        return None
    from lightning_cispo.kernels.experts.prefill_triton import MOST_TOKENS, routed_experts_triton

    fits = len(x_TX) <= MOST_TOKENS and gate_up_EJX.dtype == x_TX.dtype and _groupable(x_TX, down_EXI)
    return routed_experts_triton(x_TX, logits_TE, top_k, gate_up_EJX, down_EXI) if fits else None


def _groupable(x_TX: Tensor, down_EXI: Tensor) -> bool:
    """What torch's grouped GEMM takes: rows of whole 16 bytes, and not float64."""
    sizes = down_EXI.shape[1:]
    return x_TX.dtype != torch.float64 and all(size * x_TX.element_size() % 16 == 0 for size in sizes)


def grouped_experts(
    x_TX: Tensor, expert_TK: Tensor, weight_TK: Tensor, gate_up_EJX: Tensor, down_EXI: Tensor
) -> Tensor:
    """The same sums in two grouped GEMMs: shapes alone decide what runs, the host reads nothing."""
    sorted_N, order = expert_TK.flatten().sort(stable=True)
    token = order // expert_TK.shape[1]
    experts = torch.arange(len(down_EXI), device=x_TX.device)
    ends_E = torch.searchsorted(sorted_N, experts, right=True, out_int32=True)
    rows = x_TX.index_select(0, token)
    gate, up = F.grouped_mm(rows, gate_up_EJX.to(x_TX.dtype).transpose(1, 2), offs=ends_E).chunk(2, dim=-1)
    out = F.grouped_mm(F.silu(gate) * up, down_EXI.to(x_TX.dtype).transpose(1, 2), offs=ends_E)
    out = out * weight_TK.flatten().index_select(0, order)[:, None].to(x_TX.dtype)
    return torch.zeros_like(x_TX).index_add(0, token, out)
