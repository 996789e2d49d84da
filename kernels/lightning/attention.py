"""Lightning attention: linear attention with a fixed exponential decay per head.

    S_t = exp(-s) S_{t-1} + k_t v_t^T        o_t = q_t^T S_t        (no 1/sqrt(D) scale)

Source: MiniMax-01 report (arXiv 2501.08313) and Lightning Attention-2 (arXiv 2401.04658). Decays are only ever formed
as exp(-s * distance) with distance >= 0: exp(+s * i) overflows float32 for the steep heads.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_cispo.kernels.lightning.reference import lightning_decode_reference, lightning_reference


def lightning_attention(
    q_THD: Tensor,
    k_THD: Tensor,
    v_THD: Tensor,
    slopes_H: Tensor,
    cu_seqlens: Tensor | None = None,
    initial_state: Tensor | None = None,
    output_final_state: bool = False,
    checked: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """Lightning attention over packed rows. Runs in Triton on CUDA; elsewhere the torch reference.

    Args:
        q_THD, k_THD, v_THD: [T, H, D] in any float dtype; sums run in float32 (float64 for float64 input).
        slopes_H: [H] decay per token and head, positive, float32 or float64.
        cu_seqlens: int [S + 1] sequence borders, from 0 to T; without it all rows are one sequence.
        initial_state: [S, H, D, D] (key dim, value dim), float32 or float64; zeros if absent.
        checked: cu_seqlens is known to end at T: on CUDA nothing is launched to see to it.
    Returns: o [T, H, D] in q's dtype, and the final state [S, H, D, D] if asked for.
    Raises: ValueError naming what has a wrong shape or dtype, and a cu_seqlens that does not end at T; on CUDA, where
        the host would have to wait for that number, an assertion on the device ends the process instead.
    """
    _check(q_THD, k_THD, v_THD, slopes_H, cu_seqlens, initial_state)
    if cu_seqlens is None:
        cu_seqlens = torch.tensor([0, len(q_THD)], device=q_THD.device)
    if q_THD.is_cuda and q_THD.dtype != torch.float64 and q_THD.shape[2] <= 128:
        from lightning_cispo.kernels.lightning.launch import LightningAttention

        if not checked:
            torch._assert_async(cu_seqlens[-1] == len(q_THD), "cu_seqlens does not end at the number of tokens")
        return LightningAttention.apply(q_THD, k_THD, v_THD, slopes_H, cu_seqlens, initial_state, output_final_state)
    return lightning_reference(q_THD, k_THD, v_THD, slopes_H, cu_seqlens, initial_state, output_final_state)


def _check(
    q_THD: Tensor,
    k_THD: Tensor,
    v_THD: Tensor,
    slopes_H: Tensor,
    cu_seqlens: Tensor | None,
    initial_state: Tensor | None,
) -> None:
    if q_THD.dim() != 3 or not q_THD.is_floating_point():
        raise ValueError(f"q is {tuple(q_THD.shape)} {q_THD.dtype}: must be [T, H, D] in a float dtype")
    for name, x_THD in (("k", k_THD), ("v", v_THD)):
        if x_THD.shape != q_THD.shape or x_THD.dtype != q_THD.dtype or x_THD.device != q_THD.device:
            raise ValueError(
                f"{name} is {tuple(x_THD.shape)} {x_THD.dtype} on {x_THD.device}, "
                f"q {tuple(q_THD.shape)} {q_THD.dtype} on {q_THD.device}: must agree"
            )
    _, heads, dim = q_THD.shape
    exact = (torch.float32, torch.float64)
    if slopes_H.shape != (heads,) or slopes_H.dtype not in exact:
        raise ValueError(f"slopes is {tuple(slopes_H.shape)} {slopes_H.dtype}: must be [{heads}] in float32 or float64")
    if cu_seqlens is not None and (cu_seqlens.dim() != 1 or cu_seqlens.dtype not in (torch.int32, torch.int64)):
        raise ValueError(
            f"cu_seqlens is {tuple(cu_seqlens.shape)} {cu_seqlens.dtype}: must be [S + 1] in int32 or int64"
        )
    for name, x in (("slopes", slopes_H), ("cu_seqlens", cu_seqlens), ("initial_state", initial_state)):
        if x is not None and x.device != q_THD.device:
            raise ValueError(f"{name} is on {x.device}, q on {q_THD.device}: must agree")
    if initial_state is None:
        return
    sequences = 1 if cu_seqlens is None else len(cu_seqlens) - 1
    if initial_state.shape != (sequences, heads, dim, dim) or initial_state.dtype not in exact:
        raise ValueError(
            f"initial_state is {tuple(initial_state.shape)} {initial_state.dtype}: "
            f"must be [{sequences}, {heads}, {dim}, {dim}] in float32 or float64"
        )


def lightning_decode(
    q_BHD: Tensor, k_BHD: Tensor, v_BHD: Tensor, slopes_H: Tensor, state_SHDD: Tensor, slots_B: Tensor | None = None
) -> Tensor:
    """One token a sequence; its state (float32, contiguous) is updated in place. Returns o [B, H, D].

    slots_B: int [B], which state is whose; none twice, and negative for rows that are idle: they touch no state and
        their output is 0. Without it row i has the i-th state.
    Runs in Triton on CUDA; elsewhere the torch reference.
    """
    if state_SHDD.is_cuda:
        from lightning_cispo.kernels.lightning.decode_triton import lightning_decode_triton

        return lightning_decode_triton(q_BHD, k_BHD, v_BHD, slopes_H, state_SHDD, slots_B)
    if slots_B is None:
        return lightning_decode_reference(q_BHD, k_BHD, v_BHD, slopes_H, state_SHDD)
    out, busy = torch.zeros_like(q_BHD), (slots_B >= 0).nonzero().squeeze(1)
    own = state_SHDD[slots_B[busy]]
    out[busy] = lightning_decode_reference(q_BHD[busy], k_BHD[busy], v_BHD[busy], slopes_H, own)
    state_SHDD[slots_B[busy]] = own
    return out
