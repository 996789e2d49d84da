"""Lightning attention in Triton: one kernel walks along a sequence with the state in registers.

For N tokens, H heads and D dims in bf16, 8 N H D bytes of q, k, v and o have to move. A kernel that writes the state of
every 64-token chunk to memory, as chunk-parallel ones do, moves several times that. Here the state never leaves the
chip; parallelism comes from heads, value columns and, where those are too few for the device, from cutting sequences
into segments whose entering states one more pass over k and v finds.

The gradients are the same walk with the tensors' roles exchanged:

    dq_i = sum_{j <= i} e^{-s(i-j)} (do_i . v_j) k_j        forwards, (q, k, v) := (do, v, k)
    dk_j = sum_{i >= j} e^{-s(i-j)} (v_j . do_i) q_i        backwards, (q, k, v) := (v, do, q)
    dv_j = sum_{i >= j} e^{-s(i-j)} (k_j . q_i) do_i        backwards, (q, k, v) := (k, q, do)
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor

from kernels.lightning_walk import join_kernel, walk_kernel

CHUNK = 64
_WANTED_PROGRAMS = 264  # two for each multiprocessor of an H100
_ENOUGH_A_SEQUENCE = 96  # walkers of one sequence with which it keeps up alone
_SHORTEST_SEGMENT = 512


class Segments(NamedTuple):
    """Sequences cut into segments of `length` tokens; on the device, their number bounded by shapes alone."""

    length: int
    sequence_G: Tensor  # int32; segments beyond the last have no tokens
    start_G: Tensor  # int32, within the sequence
    first_S: Tensor  # int32 first segment of each sequence


def cut_into_segments(cu_seqlens: Tensor, tokens: int, length: int) -> Segments:
    """Never waits for the device. A segment beyond the last starts at its sequence's end."""
    lengths_S = cu_seqlens[1:] - cu_seqlens[:-1]
    counts_S = (lengths_S + length - 1) // length
    ends_S = counts_S.cumsum(0)
    first_S = ends_S - counts_S
    index_G = torch.arange(tokens // length + len(lengths_S), device=cu_seqlens.device)
    sequence_G = torch.searchsorted(ends_S, index_G, right=True).clamp(max=len(lengths_S) - 1)
    start_G = torch.minimum((index_G - first_S[sequence_G]) * length, lengths_S[sequence_G])
    return Segments(length, sequence_G.int(), start_G.int(), first_S.int())


def segment_length(tokens: int, sequences: int, walkers: int) -> int | None:
    """Tokens of a segment, None for whole sequences; from shapes alone. `walkers`: programs of one sequence at most.

    The second bound: so many walkers hide how unlike the lengths of their sequences are.
    """
    if walkers >= _ENOUGH_A_SEQUENCE or sequences * walkers >= 2 * _WANTED_PROGRAMS:
        return None
    segments = triton.cdiv(2 * _WANTED_PROGRAMS, walkers)
    return max(_SHORTEST_SEGMENT, triton.cdiv(triton.cdiv(tokens, segments), CHUNK) * CHUNK)


def whole_sequences(cu_seqlens: Tensor, tokens: int) -> Segments:
    index_S = torch.arange(len(cu_seqlens) - 1, device=cu_seqlens.device, dtype=torch.int32)
    return Segments(max(1, tokens), index_S, torch.zeros_like(index_S), index_S)


def tiling(padded_dim: int, heads: int, sequences: int) -> tuple[int, int, int]:
    """Value columns of a program, its warps, stages of its loads; from shapes alone. Measured on an H100.

    As many columns as leave the device a program for each multiprocessor: each block of them reads q and k again.
    """
    columns = padded_dim
    while columns > 32 and sequences * heads * (padded_dim // columns) < _WANTED_PROGRAMS // 2:
        columns //= 2
    return columns, 4, 2 if columns > 64 else 3


def walk(
    q_THD: Tensor,
    k_THD: Tensor,
    v_THD: Tensor,
    slopes_H: Tensor,
    cu_seqlens: Tensor,
    initial: Tensor | None,
    final: bool,
    backwards: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """o [T, H, D] contiguous in q's dtype, and the state [S, H, D, D] float32 after the walk if asked for.

    `initial` is the state before the first token (backwards: with the last, undecayed), float32 contiguous.
    """
    tokens, heads, dim = q_THD.shape
    sequences = len(cu_seqlens) - 1
    padded = max(16, triton.next_power_of_2(dim))
    o_THD = torch.empty(tokens, heads, dim, dtype=q_THD.dtype, device=q_THD.device)
    length = segment_length(tokens, sequences, heads * triton.cdiv(dim, 32))
    cut = sequences if length is None else triton.cdiv(tokens, length)
    columns, warps, stages = tiling(padded, heads, cut)
    blocks = triton.cdiv(dim, columns)
    segments = cut_into_segments(cu_seqlens, tokens, length) if length else whole_sequences(cu_seqlens, tokens)
    kernel: Any = walk_kernel

    def launch(entering: Tensor | None, leaving: Tensor | None, output: bool) -> None:
        kernel[(len(segments.sequence_G), heads, blocks)](
            q_THD,
            k_THD,
            v_THD,
            o_THD,
            slopes_H,
            cu_seqlens,
            segments.sequence_G,
            segments.start_G,
            entering if entering is not None else q_THD,
            leaving if leaving is not None else q_THD,
            *(stride for x in (q_THD, k_THD, v_THD) for stride in x.stride()[:2]),
            segments.length,
            H=heads,
            D=dim,
            DIM=padded,
            COLUMNS=columns,
            C=CHUNK,
            BACKWARDS=backwards,
            ENTERING=entering is not None,
            LEAVING=leaving is not None,
            OUTPUT=output,
            SKIP_SINGLE=not output and not final,
            SPLIT=final and q_THD.dtype != torch.float32,
            PRECISION="ieee" if q_THD.dtype == torch.float32 else "tf32",
            num_warps=warps,
            num_stages=stages,
        )

    def states(count: int) -> Tensor:
        return torch.empty(count, heads, dim, dim, dtype=torch.float32, device=q_THD.device)

    if length is None:
        after = states(sequences) if final else None
        launch(initial, after, output=True)
        return o_THD, after
    entering, after = states(len(segments.sequence_G)), states(sequences)
    launch(None, entering, output=False)
    join: Any = join_kernel
    block = min(1024, triton.next_power_of_2(dim * dim))
    join[(sequences, heads, triton.cdiv(dim * dim, block))](
        initial if initial is not None else entering,
        entering,
        after,
        slopes_H,
        cu_seqlens,
        segments.first_S,
        segments.length,
        H=heads,
        NUMBERS=dim * dim,
        BLOCK=block,
        BACKWARDS=backwards,
        INITIAL=initial is not None,
    )
    launch(entering, None, output=True)
    return o_THD, after if final else None


class LightningAttention(torch.autograd.Function):
    """`kernels.lightning.lightning_attention` for CUDA tensors of one dtype, bf16, fp16 or float32."""

    @staticmethod
    def forward(ctx, q_THD, k_THD, v_THD, slopes_H, cu_seqlens, initial_state, output_final_state):
        q_THD, k_THD, v_THD = (x if x.stride(2) == 1 else x.contiguous() for x in (q_THD, k_THD, v_THD))
        initial = None if initial_state is None else initial_state.float().contiguous()
        o_THD, final = walk(q_THD, k_THD, v_THD, slopes_H, cu_seqlens, initial, output_final_state)
        ctx.save_for_backward(q_THD, k_THD, v_THD, slopes_H, cu_seqlens, initial)
        return o_THD, final

    @staticmethod
    def backward(ctx, do_THD, dfinal):
        q, k, v, slopes, cu, initial = ctx.saved_tensors
        do = do_THD.to(q.dtype).contiguous()
        across = None if initial is None else initial.transpose(2, 3).contiguous()
        dq, _ = walk(do, v, k, slopes, cu, across, final=False)
        # Walking backwards the final state meets the last token undecayed, which a walk's first step would decay once.
        decay_H11 = torch.exp(-slopes.float())[:, None, None]
        after = None if dfinal is None else dfinal.float() / decay_H11
        across = None if after is None else after.transpose(2, 3).contiguous()
        dk, _ = walk(v, do, q, slopes, cu, across, final=False, backwards=True)
        dv, before = walk(k, q, do, slopes, cu, after, final=initial is not None, backwards=True)
        dinitial = None if before is None else (before * decay_H11).to(initial.dtype)
        return dq, dk, dv, None, None, dinitial, None
