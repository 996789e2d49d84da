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

from typing import Any

import torch
from torch import Tensor

from lightning_cispo.kernels.function import Function
from lightning_cispo.kernels.launcher import ceil_div, power_of_2
from lightning_cispo.kernels.lightning.segments import Segments, cut_into_segments, segment_length
from lightning_cispo.kernels.lightning.walk import join_kernel, walk_kernel

_MULTIPROCESSORS = 132  # of an H100
# Tokens of a chunk, and how products of float32 are made: of three tf32 ones, whose operands have to fit too.
_NARROW, _WIDE = (64, "tf32"), (16, "tf32x3")


def tiling(padded_dim: int, heads: int, sequences: int) -> tuple[int, int, int]:
    """Value columns of a program, its warps, stages of its loads; from shapes alone. Measured on an H100.

    Each block of columns reads q and k again, from the cache. 64 of them, two tiles ahead, leave registers and shared
    memory to two programs a multiprocessor; where there is but one, or fewer, they had better be narrow and load more.
    """
    columns = min(64, padded_dim)
    while columns > 32 and sequences * heads * (padded_dim // columns) < _MULTIPROCESSORS:
        columns //= 2
    enough = sequences * heads * (padded_dim // columns) >= 2 * _MULTIPROCESSORS
    return columns, 4, 2 if columns > 32 and enough else 3


def walk(
    q_THD: Tensor,
    k_THD: Tensor,
    v_THD: Tensor,
    slopes_H: Tensor,
    cu_seqlens: Tensor,
    initial: Tensor | None,
    final: bool,
    segments: Segments | None,
    backwards: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """o [T, H, D] contiguous in q's dtype, and the state [S, H, D, D] float32 after the walk if asked for.

    `initial` is the state before the first token (backwards: with the last, undecayed), float32 contiguous.
    """
    tokens, heads, dim = q_THD.shape
    sequences = cu_seqlens.shape[0] - 1
    padded = max(16, power_of_2(dim))
    o_THD = torch.empty(tokens, heads, dim, dtype=q_THD.dtype, device=q_THD.device)
    cut = ceil_div(tokens, segments.length) if segments else sequences
    columns, warps, stages = tiling(padded, heads, cut)
    blocks = ceil_div(dim, columns)
    kernel: Any = walk_kernel
    chunk, precision = _WIDE if q_THD.dtype == torch.float32 else _NARROW

    def launch(entering: Tensor | None, leaving: Tensor | None, output: bool) -> None:
        kernel[(blocks, segments.sequence_G.shape[0] if segments else sequences, heads)](
            q_THD,
            k_THD,
            v_THD,
            o_THD,
            slopes_H,
            cu_seqlens,
            segments.sequence_G if segments else cu_seqlens,
            segments.start_G if segments else cu_seqlens,
            entering if entering is not None else q_THD,
            leaving if leaving is not None else q_THD,
            *(stride for x in (q_THD, k_THD, v_THD) for stride in x.stride()[:2]),
            segments.length if segments else 1,
            H=heads,
            D=dim,
            DIM=padded,
            COLUMNS=columns,
            C=chunk,
            CUT=segments is not None,
            BACKWARDS=backwards,
            ENTERING=entering is not None,
            LEAVING=leaving is not None,
            OUTPUT=output,
            SKIP_SINGLE=not output and not final,
            SPLIT=final and q_THD.dtype != torch.float32,
            PRECISION=precision,
            num_warps=warps,
            num_stages=stages,
        )

    def states(count: int) -> Tensor:
        return torch.empty(count, heads, dim, dim, dtype=torch.float32, device=q_THD.device)

    if segments is None:
        after = states(sequences) if final else None
        launch(initial, after, output=True)
        return o_THD, after
    entering, after = states(segments.sequence_G.shape[0]), states(sequences)
    launch(None, entering, output=False)
    join: Any = join_kernel
    block = min(1024, power_of_2(dim * dim))
    join[(sequences, heads, ceil_div(dim * dim, block))](
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


def gradients(
    do_THD: Tensor,
    q_THD: Tensor,
    k_THD: Tensor,
    v_THD: Tensor,
    slopes_H: Tensor,
    cu_seqlens: Tensor,
    segments: Segments | None,
    initial: Tensor | None = None,
    dfinal: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """Of q, k, v and, where there is one, of the initial state, from those of the output and of the final state."""
    do_THD = do_THD.to(q_THD.dtype).contiguous()
    across = None if initial is None else initial.transpose(2, 3).contiguous()
    dq, _ = walk(do_THD, v_THD, k_THD, slopes_H, cu_seqlens, across, False, segments)
    # Walking backwards the final state meets the last token undecayed, which a walk's first step would decay once.
    after = None if dfinal is None else dfinal.float() / _decay(slopes_H)
    across = None if after is None else after.transpose(2, 3).contiguous()
    dk, _ = walk(v_THD, do_THD, q_THD, slopes_H, cu_seqlens, across, False, segments, backwards=True)
    dv, before = walk(k_THD, q_THD, do_THD, slopes_H, cu_seqlens, after, initial is not None, segments, backwards=True)
    return dq, dk, dv, None if before is None else before * _decay(slopes_H)


def segments_for(q_THD: Tensor, cu_seqlens: Tensor) -> Segments | None:
    """Those that its sequences are cut into, if they had better be."""
    tokens, heads, dim = q_THD.shape
    length = segment_length(tokens, cu_seqlens.shape[0] - 1, heads * ceil_div(dim, 32))
    return None if length is None else cut_into_segments(cu_seqlens, tokens, length)


class LightningAttention(Function):
    """`kernels.lightning.lightning_attention` for CUDA tensors of one dtype, bf16, fp16 or float32."""

    @staticmethod
    def forward(ctx, q_THD, k_THD, v_THD, slopes_H, cu_seqlens, initial_state, output_final_state):
        q_THD, k_THD, v_THD = (x if x.stride(2) == 1 else x.contiguous() for x in (q_THD, k_THD, v_THD))
        initial = None if initial_state is None else initial_state.float().contiguous()
        given = q_THD, k_THD, v_THD, slopes_H, cu_seqlens
        ctx.segments = segments_for(q_THD, cu_seqlens)
        ctx.save_for_backward(*given, initial)
        return walk(*given, initial, output_final_state, ctx.segments)

    @staticmethod
    def backward(ctx, do_THD, dfinal):
        q, k, v, slopes, cu, initial = ctx.saved_tensors
        dq, dk, dv, dinitial = gradients(do_THD, q, k, v, slopes, cu, ctx.segments, initial, dfinal)
        return dq, dk, dv, None, None, None if dinitial is None else dinitial.to(initial.dtype), None


def _decay(slopes_H: Tensor) -> Tensor:
    """Of a token, for states [S, H, D, D]."""
    return torch.exp(-slopes_H.float())[:, None, None]
