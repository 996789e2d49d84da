"""Causal softmax attention over packed rows (training, prefill)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def varlen_attention(
    q_THD: Tensor, k_UKD: Tensor, v_UKD: Tensor, cu_seqlens: Tensor, cu_seqlens_k: Tensor | None = None
) -> Tensor:
    """Block-diagonal causal attention with grouped keys, scale 1/sqrt(D); the torch reference.

    Args:
        q_THD: [T, H, D]; k_UKD, v_UKD: [U, Kv, D], H a multiple of Kv.
        cu_seqlens: int [S + 1] borders of the queries; cu_seqlens_k the same for the keys when a sequence has more
        keys than
            queries (left context): the last query then sees the last key.
    Returns: [T, H, D].

    Sequences of like length run together as one batched call; what pads a call out to its longest lies in the causal
    future.
    """
    cu_k = cu_seqlens if cu_seqlens_k is None else cu_seqlens_k
    starts, ends, starts_k, ends_k = (x.tolist() for x in (cu_seqlens[:-1], cu_seqlens[1:], cu_k[:-1], cu_k[1:]))
    out = torch.zeros_like(q_THD)
    for members in _buckets([e - s for s, e in zip(starts, ends, strict=True)]):
        lengths = [ends[i] - starts[i] for i in members]
        lengths_k = [ends_k[i] - starts_k[i] for i in members]
        rows, valid = _table([starts[i] for i in members], lengths, q_THD.device)
        rows_k, valid_k = _table([starts_k[i] for i in members], lengths_k, q_THD.device)
        q_BHLD = q_THD[rows].transpose(1, 2)
        k_BKLD, v_BKLD = k_UKD[rows_k].transpose(1, 2), v_UKD[rows_k].transpose(1, 2)
        if lengths == lengths_k:
            o_BHLD = F.scaled_dot_product_attention(q_BHLD, k_BKLD, v_BKLD, is_causal=True, enable_gqa=True)
        else:
            context_B = torch.tensor(lengths_k, device=out.device) - torch.tensor(lengths, device=out.device)
            last_BL = torch.arange(rows.shape[1], device=out.device) + context_B[:, None]
            mask_B1LU = torch.arange(rows_k.shape[1], device=out.device) <= last_BL[:, None, :, None]
            o_BHLD = F.scaled_dot_product_attention(q_BHLD, k_BKLD, v_BKLD, attn_mask=mask_B1LU, enable_gqa=True)
        out = out.index_put((rows[valid],), o_BHLD.transpose(1, 2)[valid])
    return out


def _buckets(lengths: list[int]) -> list[list[int]]:
    """Sequence numbers grouped so that no group's longest is more than 1.5 times (or 16 tokens over) its shortest."""
    groups: list[list[int]] = []
    limit = -1.0
    for i in sorted((i for i, n in enumerate(lengths) if n > 0), key=lengths.__getitem__):
        if lengths[i] > limit:
            groups.append([])
            limit = max(1.5 * lengths[i], lengths[i] + 16)
        groups[-1].append(i)
    return groups


def _table(starts: list[int], lengths: list[int], device: torch.device) -> tuple[Tensor, Tensor]:
    """Row numbers [B, longest] of packed sequences, and which of them are real."""
    start_B, length_B = torch.tensor(starts, device=device), torch.tensor(lengths, device=device)
    within_L = torch.arange(max(lengths), device=device)
    valid_BL = within_L < length_B[:, None]
    return (start_B[:, None] + within_L).where(valid_BL, 0), valid_BL
