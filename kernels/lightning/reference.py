"""Lightning attention in torch: chunk by chunk for CPUs, gradients and tests; token by token as it is defined."""

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


def lightning_decode_reference(
    q_BHD: Tensor, k_BHD: Tensor, v_BHD: Tensor, slopes_H: Tensor, state_BHDD: Tensor
) -> Tensor:
    q, k, v = (x.to(state_BHDD.dtype) for x in (q_BHD, k_BHD, v_BHD))
    # Two passes over the state instead of the three of a batched product added to it.
    state_BHDD.mul_(torch.exp(-slopes_H.to(state_BHDD.dtype))[:, None, None]).addcmul_(k[..., None], v[..., None, :])
    o_BH1D = torch.matmul(q[..., None, :], state_BHDD)
    return o_BH1D.squeeze(-2).to(q_BHD.dtype)
