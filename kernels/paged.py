"""Softmax attention of one new token a sequence over keys and values that lie in pages."""

from __future__ import annotations

import torch
from torch import Tensor


def paged_attention(
    q_BHD: Tensor, keys_NKPD: Tensor, values_NKPD: Tensor, table_BM: Tensor, lengths_B: Tensor
) -> Tensor:
    """One query a sequence over its first `lengths_B` tokens, scale 1/sqrt(D).

    Args:
        q_BHD: [B, H, D]; keys_NKPD, values_NKPD: [N pages, Kv, P tokens a page, D], H a multiple of Kv. What a page
            holds beyond its sequence's length must be finite.
        table_BM: int64 [B, M], the pages of each sequence in their order; M pages hold the longest.
        lengths_B: int64 [B], at least 1.
    Returns: [B, H, D] in q's dtype.

    Runs in Triton on CUDA; elsewhere the torch reference.
    """
    if q_BHD.is_cuda:
        from lightning_cispo.kernels.decoding.attention_triton import paged_attention_triton

        return paged_attention_triton(q_BHD, keys_NKPD, values_NKPD, table_BM, lengths_B)
    return paged_attention_reference(q_BHD, keys_NKPD, values_NKPD, table_BM, lengths_B)


def paged_attention_reference(
    q_BHD: Tensor, keys_NKPD: Tensor, values_NKPD: Tensor, table_BM: Tensor, lengths_B: Tensor
) -> Tensor:
    """The same in torch: pages gathered once into [B * Kv, M * P, D], then two batched products."""
    batch, heads, dim = q_BHD.shape
    pages, kv_heads, size, _ = keys_NKPD.shape
    index = (table_BM[:, None] * kv_heads + torch.arange(kv_heads, device=table_BM.device)[:, None]).flatten()
    k, v = (
        x.view(pages * kv_heads, size * dim).index_select(0, index).view(batch * kv_heads, -1, dim)
        for x in (keys_NKPD, values_NKPD)
    )
    scores = torch.bmm(q_BHD.reshape(batch * kv_heads, -1, dim), k.transpose(1, 2))
    scores = scores.to(torch.promote_types(scores.dtype, torch.float32)).mul_(dim**-0.5)
    hidden_BL = torch.arange(k.shape[1], device=q_BHD.device) >= lengths_B[:, None]
    scores.view(batch, heads, -1).masked_fill_(hidden_BL[:, None], float("-inf"))
    return torch.bmm(scores.softmax(-1).to(v.dtype), v).view(batch, heads, dim)
