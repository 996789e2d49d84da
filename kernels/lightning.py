"""Lightning attention: linear attention with a fixed exponential decay per head.

    S_t = exp(-s) S_{t-1} + k_t v_t^T        o_t = q_t^T S_t        (no 1/sqrt(D) scale)

Source: MiniMax-01 report (arXiv 2501.08313) and Lightning Attention-2 (arXiv 2401.04658). Decays are only ever formed
as exp(-s * distance) with distance >= 0: exp(+s * i) overflows float32 for the steep heads.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Chunks(NamedTuple):
    """Packed sequences cut into chunks of at most C tokens that never cross a sequence border."""

    index_NC: Tensor  # int64 row of the packed tensors; out-of-chunk entries point at row 0
    valid_NC: Tensor  # bool
    lengths_N: Tensor  # int64 tokens in each chunk
    first_S: Tensor  # int64 first chunk of each sequence
    counts_S: list[int]  # chunks of each sequence


def cut_into_chunks(cu_seqlens: Tensor, chunk_size: int) -> Chunks:
    """Chunk table of packed sequences. `cu_seqlens`: int [S + 1], from 0 to T; empty sequences are allowed."""
    lengths_S = (cu_seqlens[1:] - cu_seqlens[:-1]).long()
    counts_S = (lengths_S + chunk_size - 1) // chunk_size
    first_S = counts_S.cumsum(0) - counts_S
    sequence_N = torch.repeat_interleave(torch.arange(len(lengths_S), device=cu_seqlens.device), counts_S)
    offset_N = (torch.arange(len(sequence_N), device=cu_seqlens.device) - first_S[sequence_N]) * chunk_size
    lengths_N = (lengths_S[sequence_N] - offset_N).clamp(max=chunk_size)
    within_C = torch.arange(chunk_size, device=cu_seqlens.device)
    valid_NC = within_C < lengths_N[:, None]
    index_NC = (cu_seqlens.long()[sequence_N] + offset_N)[:, None] + within_C
    return Chunks(index_NC.where(valid_NC, 0), valid_NC, lengths_N, first_S, counts_S.tolist())


def lightning_attention(
    q_THD: Tensor,
    k_THD: Tensor,
    v_THD: Tensor,
    slopes_H: Tensor,
    cu_seqlens: Tensor | None = None,
    initial_state: Tensor | None = None,
    output_final_state: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """Lightning attention over packed rows. Runs in Triton on CUDA; elsewhere the torch reference.

    Args:
        q_THD, k_THD, v_THD: [T, H, D] in any float dtype; sums run in float32 (float64 for float64 input).
        slopes_H: [H] decay per token and head, positive, float32 or float64.
        cu_seqlens: int [S + 1] sequence borders, from 0 to T; without it all rows are one sequence.
        initial_state: [S, H, D, D] (key dim, value dim), float32 or float64; zeros if absent.
    Returns: o [T, H, D] in q's dtype, and the final state [S, H, D, D] if asked for.
    Raises: ValueError naming what has a wrong shape or dtype, and a cu_seqlens that does not end at T; on CUDA, where
        the host would have to wait for that number, an assertion on the device ends the process instead.
    """
    _check(q_THD, k_THD, v_THD, slopes_H, cu_seqlens, initial_state)
    if cu_seqlens is None:
        cu_seqlens = torch.tensor([0, len(q_THD)], device=q_THD.device)
    if q_THD.is_cuda and q_THD.dtype != torch.float64 and q_THD.shape[2] <= 128:
        from kernels.lightning_triton import LightningAttention

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
    sequences = 1 if cu_seqlens is None else len(cu_seqlens) - 1
    if initial_state is not None and (
        initial_state.shape != (sequences, heads, dim, dim) or initial_state.dtype not in exact
    ):
        raise ValueError(
            f"initial_state is {tuple(initial_state.shape)} {initial_state.dtype}: "
            f"must be [{sequences}, {heads}, {dim}, {dim}] in float32 or float64"
        )


def lightning_reference(
    q_THD: Tensor,
    k_THD: Tensor,
    v_THD: Tensor,
    slopes_H: Tensor,
    cu_seqlens: Tensor,
    initial_state: Tensor | None = None,
    output_final_state: bool = False,
    chunk_size: int = 64,
) -> tuple[Tensor, Tensor | None]:
    """The same in torch, chunk by chunk; sums in float32, in float64 for float64 input."""
    tokens, heads, dim = q_THD.shape
    if int(cu_seqlens[-1]) != tokens:
        raise ValueError(f"cu_seqlens ends at {int(cu_seqlens[-1])}, but there are {tokens} tokens")
    compute = torch.float64 if q_THD.dtype == torch.float64 else torch.float32
    longest = int((cu_seqlens[1:] - cu_seqlens[:-1]).max()) if len(cu_seqlens) > 1 else 0
    size = _even_chunk_size(longest, chunk_size)
    chunks = cut_into_chunks(cu_seqlens, size)
    count = len(chunks.lengths_N)
    slopes_H = slopes_H.to(compute)

    def tiles(x_THD: Tensor) -> Tensor:
        """[H * N, C, D]: heads first, so that every product is one batched GEMM over contiguous tiles."""
        x_HTD = x_THD.to(compute).transpose(0, 1).contiguous()
        return x_HTD.index_select(1, chunks.index_NC.flatten()).view(heads * count, size, dim)

    def scaled(x_BCD: Tensor, by: Tensor) -> Tensor:
        """Tiles times a factor that broadcasts to [H, N, C]."""
        return (x_BCD.view(heads, count, size, dim) * by[..., None]).view_as(x_BCD)

    q_BCD, k_BCD, v_BCD = tiles(q_THD), tiles(k_THD), tiles(v_THD)
    steps_C = torch.arange(size, device=q_THD.device)
    distance_CC = (steps_C[:, None] - steps_C).clamp(min=0)
    mask_HCC = torch.exp(-slopes_H[:, None, None] * distance_CC).tril()
    scores_BCC = torch.bmm(q_BCD, k_BCD.transpose(1, 2))
    scores_BCC = (scores_BCC.view(heads, count, size, size) * mask_HCC[:, None]).view_as(scores_BCC)

    final = None
    if initial_state is None and not output_final_state and max(chunks.counts_S, default=0) <= 1:
        o_BCD = torch.bmm(scores_BCC, v_BCD)
    else:
        left_NC = (chunks.lengths_N[:, None] - 1 - steps_C).clamp(min=0)
        k_decay_HNC = torch.exp(-slopes_H[:, None, None] * left_NC).masked_fill(~chunks.valid_NC, 0)
        added_BDD = torch.bmm(scaled(k_BCD, k_decay_HNC).transpose(1, 2), v_BCD)
        kept_HN = torch.exp(-slopes_H[:, None] * chunks.lengths_N)
        incoming_HNDD, final = _scan(chunks, added_BDD.view(heads, count, dim, dim), kept_HN, initial_state)
        q_decay_H1C = torch.exp(-slopes_H[:, None, None] * (steps_C + 1))
        o_BCD = torch.bmm(scaled(q_BCD, q_decay_H1C), incoming_HNDD.flatten(0, 1))
        o_BCD = torch.baddbmm(o_BCD, scores_BCC, v_BCD)
    rows_T = chunks.valid_NC.flatten().nonzero().squeeze(1)
    o_THD = o_BCD.view(heads, count * size, dim).index_select(1, rows_T).transpose(0, 1).to(q_THD.dtype)
    return o_THD, final if output_final_state else None


def _even_chunk_size(longest: int, largest: int) -> int:
    """Tokens a chunk, at most `largest`, that cut the longest sequence into equal chunks; a multiple of 8."""
    chunks = max(1, -(-longest // largest))
    return min(largest, max(8, -(-longest // (8 * chunks)) * 8))


def _scan(chunks: Chunks, added: Tensor, kept_HN: Tensor, initial_state: Tensor | None) -> tuple[Tensor, Tensor]:
    """State entering every chunk [H, N, D, D], and the state after every sequence [S, H, D, D]."""
    counts_S = torch.tensor(chunks.counts_S, device=added.device)
    if initial_state is None:
        state = added.new_zeros(len(added), len(counts_S), *added.shape[2:])
    else:
        state = initial_state.to(added.dtype).transpose(0, 1)
    incoming, order = [], []
    for step in range(max(chunks.counts_S, default=0)):
        active_S = (counts_S > step).nonzero().squeeze(1)
        everyone = len(active_S) == len(counts_S)
        chunk_ids = chunks.first_S[active_S] + step
        entering = state if everyone else state[:, active_S]
        incoming.append(entering)
        order.append(chunk_ids)
        leaving = entering * kept_HN[:, chunk_ids, None, None] + added[:, chunk_ids]
        state = leaving if everyone else state.index_copy(1, active_S, leaving)
    final = state.transpose(0, 1).contiguous()
    if not incoming:
        return added, final
    return torch.cat(incoming, dim=1)[:, torch.cat(order).argsort()], final


def lightning_recurrent(
    q_THD: Tensor, k_THD: Tensor, v_THD: Tensor, slopes_H: Tensor, state_HDD: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The definition itself, one sequence, token by token: o [T, H, D] and the final state [H, D, D]."""
    tokens, heads, dim = q_THD.shape
    state = q_THD.new_zeros(heads, dim, dim) if state_HDD is None else state_HDD
    decay_H11 = torch.exp(-slopes_H.to(state.dtype))[:, None, None]
    out = []
    for t in range(tokens):
        state = decay_H11 * state + k_THD[t, :, :, None] * v_THD[t, :, None, :]
        out.append(torch.einsum("hd,hde->he", q_THD[t], state))
    return torch.stack(out) if out else torch.zeros_like(v_THD), state


def lightning_decode(
    q_BHD: Tensor, k_BHD: Tensor, v_BHD: Tensor, slopes_H: Tensor, state_SHDD: Tensor, slots_B: Tensor | None = None
) -> Tensor:
    """One token a sequence; its state (float32, contiguous) is updated in place. Returns o [B, H, D].

    slots_B: int [B], which state is whose; none twice, and negative for rows that are idle: they touch no state and
        their output is 0. Without it row i has the i-th state.
    Runs in Triton on CUDA; elsewhere the torch reference.
    """
    if state_SHDD.is_cuda:
        from kernels.lightning_decode_triton import lightning_decode_triton

        return lightning_decode_triton(q_BHD, k_BHD, v_BHD, slopes_H, state_SHDD, slots_B)
    if slots_B is None:
        return lightning_decode_reference(q_BHD, k_BHD, v_BHD, slopes_H, state_SHDD)
    out, busy = torch.zeros_like(q_BHD), (slots_B >= 0).nonzero().squeeze(1)
    own = state_SHDD[slots_B[busy]]
    out[busy] = lightning_decode_reference(q_BHD[busy], k_BHD[busy], v_BHD[busy], slopes_H, own)
    state_SHDD[slots_B[busy]] = own
    return out


def lightning_decode_reference(
    q_BHD: Tensor, k_BHD: Tensor, v_BHD: Tensor, slopes_H: Tensor, state_BHDD: Tensor
) -> Tensor:
    q, k, v = (x.to(state_BHDD.dtype) for x in (q_BHD, k_BHD, v_BHD))
    # Two passes over the state instead of the three of a batched product added to it.
    state_BHDD.mul_(torch.exp(-slopes_H.to(state_BHDD.dtype))[:, None, None]).addcmul_(k[..., None], v[..., None, :])
    o_BH1D = torch.matmul(q[..., None, :], state_BHDD)
    return o_BH1D.squeeze(-2).to(q_BHD.dtype)
