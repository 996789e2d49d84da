"""Causal softmax attention over packed rows (training, prefill)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_cispo.kernels.function import Function
from lightning_cispo.kernels.native.library import serves

# Tokens from which one sequence alone is worth a plan of cuDNN's, which is made anew for every length.
_LONG = 8192


def varlen_attention(
    q_THD: Tensor, k_UKD: Tensor, v_UKD: Tensor, cu_seqlens: Tensor, cu_seqlens_k: Tensor | None = None
) -> Tensor:
    """Block-diagonal causal attention with grouped keys, scale 1/sqrt(D).

    Without left context, on CUDA in bf16 and float16, torch's FlashAttention, with the same bits each time; for one
    long sequence what torch finds fastest without borders, whose backward adds in any order unless
    `torch.use_deterministic_algorithms` forbids that (2.3 to 2.6 times slower there). On CPUs in float32 in C: the bits
    of a row depend on its own query and the keys it sees alone. Elsewhere the torch reference, whose bits depend on the
    other sequences too.

    Args:
        q_THD: [T, H, D]; k_UKD, v_UKD: [U, Kv, D], H a multiple of Kv.
        cu_seqlens: int [S + 1] borders of the queries; cu_seqlens_k the same for the keys when a sequence has more
            keys than queries (left context): the last query then sees the last key.
    Returns: [T, H, D].
    Raises: ValueError for shapes, dtypes or devices that don't agree, or, on the CPU, for borders that don't end at T
        and U (on CUDA that would wait for the device).
    """
    cu_k = cu_seqlens if cu_seqlens_k is None else cu_seqlens_k
    _refuse_unfit(q_THD, k_UKD, v_UKD, cu_seqlens, cu_k)
    half = q_THD.dtype in (torch.bfloat16, torch.float16)
    fits = q_THD.shape[2] % 8 == 0 and q_THD.shape[2] <= 256 and len(q_THD) > 0 and cu_k is cu_seqlens
    if q_THD.is_cuda and half and fits:
        if len(cu_seqlens) == 2 and len(q_THD) >= _LONG:
            q_1HTD, k_1KTD, v_1KTD = (x.transpose(0, 1)[None] for x in (q_THD, k_UKD, v_UKD))
            o_1HTD = F.scaled_dot_product_attention(q_1HTD, k_1KTD, v_1KTD, is_causal=True, enable_gqa=True)
            return o_1HTD[0].transpose(0, 1)
        return _FlashAttention.apply(q_THD, k_UKD, v_UKD, cu_seqlens.int())
    if serves(q_THD, k_UKD, v_UKD):
        from lightning_cispo.kernels.native.attention import Attention

        return Attention.apply(q_THD, k_UKD, v_UKD, cu_seqlens, cu_k)
    return _varlen_reference(q_THD, k_UKD, v_UKD, cu_seqlens, cu_k)


def _refuse_unfit(q_THD: Tensor, k_UKD: Tensor, v_UKD: Tensor, cu_seqlens: Tensor, cu_seqlens_k: Tensor) -> None:
    for name, x in (("k", k_UKD), ("v", v_UKD)):
        if x.dim() != 3 or x.shape != k_UKD.shape or x.shape[2] != q_THD.shape[2] or q_THD.shape[1] % x.shape[1]:
            raise ValueError(
                f"{name} is {tuple(x.shape)}, q {tuple(q_THD.shape)}: k and v must be alike, with q's last size and "
                "a number of heads that divides q's"
            )
        if x.dtype != q_THD.dtype or x.device != q_THD.device:
            raise ValueError(f"{name} is {x.dtype} on {x.device}, q {q_THD.dtype} on {q_THD.device}: must agree")
    if cu_seqlens.shape != cu_seqlens_k.shape:
        raise ValueError(f"cu_seqlens has {len(cu_seqlens)} borders, cu_seqlens_k {len(cu_seqlens_k)}: must agree")
    for name, borders, x in (("cu_seqlens", cu_seqlens, q_THD), ("cu_seqlens_k", cu_seqlens_k, k_UKD)):
        if not borders.is_cuda and int(borders[-1]) != len(x):
            raise ValueError(f"{name} ends at {int(borders[-1])}, but there are {len(x)} rows")


class _FlashAttention(Function):
    """torch's kernel with the number of rows for the longest sequence: programs past a sequence's end leave at once,
    and the host need not know the lengths."""

    @staticmethod
    def forward(ctx, q, k, v, cu_seqlens):
        # Not `varlen_attn`: its arguments change from one release to the next.
        o, lse, *state, _ = torch.ops.aten._flash_attention_forward(
            q, k, v, cu_seqlens, cu_seqlens, len(q), len(k), 0.0, True, False
        )
        ctx.save_for_backward(q, k, v, o, lse, cu_seqlens, *state)
        return o

    @staticmethod
    def backward(ctx, grad_o):
        q, k, v, o, lse, cu_seqlens, *state = ctx.saved_tensors
        with _in_order():
            grads = torch.ops.aten._flash_attention_backward(
                grad_o.contiguous(), q, k, v, o, lse, cu_seqlens, cu_seqlens, len(q), len(k), 0.0, True, *state
            )
        return *grads, None


@contextmanager
def _in_order() -> Iterator[None]:
    """torch's deterministic algorithms, without filling what they allocate."""
    was, warned = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    filled = torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(was, warn_only=warned)
        torch.utils.deterministic.fill_uninitialized_memory = filled  # type: ignore[attr-defined]


def _varlen_reference(q_THD: Tensor, k_UKD: Tensor, v_UKD: Tensor, cu_seqlens: Tensor, cu_k: Tensor) -> Tensor:
    """Sequences of like length run together as one batched call; what pads a call out to its longest lies in the causal
    future."""
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
