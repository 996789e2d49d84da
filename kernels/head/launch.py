"""LM head to log-probabilities in Triton: tiles of logits become sums on the chip, and gradients a chunk at a time.

Forward is one GEMM whose epilogue keeps three numbers a token and 128 columns. Backward goes through the vocabulary in
chunks: the logits again, their gradient in 16 bits (the only [T, chunk] there is), and cuBLAS for the two products with
it. Four GEMMs in all, where three are the least: the fourth is the price of not holding [T, V].

A float32 weight is the sum of two float16 numbers, scaled by one power of two: 22 bits, two products at the full rate.
Its gradient's operands are float16 too, as all activations' are 16 bits where the hidden states are.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from lightning_cispo.kernels.function import Function
from lightning_cispo.kernels.head.operands import add_product, operand, power_of_two, product
from lightning_cispo.kernels.head.tiles import gradient_kernel, join_kernel, statistics_kernel
from lightning_cispo.kernels.launcher import ceil_div

_LOGITS_AT_ONCE = 50 << 23  # 800 MiB of their gradients; a quarter where the weight's gradient needs the room itself
_TILE = {"ROWS": 128, "DEPTH": 64, "GROUP": 16}
_HALF = 128  # columns under one partial sum


def head_logprobs_triton(
    hidden_TX: Tensor, weight_VX: Tensor, targets_T: Tensor, temperature: float
) -> tuple[Tensor, Tensor]:
    """`kernels.head.logprobs.head_logprobs` for bf16 or float16 hidden states and a weight in their dtype or float32.

    X is a multiple of 8, T at least 1. A target outside the vocabulary gives NaN: asking would wait for the device.
    """
    return HeadLogprobs.apply(hidden_TX.contiguous(), weight_VX.contiguous(), targets_T.contiguous(), temperature)


class HeadLogprobs(Function):
    @staticmethod
    def forward(ctx, hidden, weight, targets, temperature):
        ctx.set_materialize_grads(False)
        scales = (None, None) if hidden.dtype == weight.dtype else (power_of_two(hidden), power_of_two(weight))
        logprobs, lse, entropy = _statistics(hidden, weight, targets, temperature, scales)
        ctx.save_for_backward(hidden, weight, targets, logprobs, lse, entropy, *scales)
        ctx.temperature = temperature
        return logprobs, entropy

    @staticmethod
    def backward(ctx, grad_logprobs, grad_entropy):
        if grad_logprobs is None and grad_entropy is None:
            return None, None, None, None
        found = _gradients(*ctx.saved_tensors, ctx.temperature, grad_logprobs, grad_entropy)  # type: ignore[call-arg]
        return *found, None, None


def _statistics(
    hidden: Tensor, weight: Tensor, targets: Tensor, temperature: float, scales: tuple[Tensor | None, Tensor | None]
) -> tuple[Tensor, Tensor, Tensor]:
    """Log-probabilities, log-sum-exps and entropies, float32 [T]."""
    (tokens, width), vocabulary = hidden.shape, len(weight)
    split = hidden.dtype != weight.dtype
    own, step = operand(hidden, scales[0], low=False), _chunk(tokens, weight)
    tops, sums, dots = torch.empty(3, ceil_div(step, _HALF), tokens, dtype=torch.float32, device=hidden.device)
    state = torch.zeros(3, tokens, dtype=torch.float32, device=hidden.device)
    state[0] = -1e30
    picked = torch.full_like(state[0], float("nan"))
    logprobs, lse, entropy = (torch.empty_like(picked) for _ in range(3))
    kernel: Any = statistics_kernel
    join: Any = join_kernel
    for first in range(0, vocabulary, step):
        columns = min(step, vocabulary - first)
        theirs = operand(weight[first : first + columns], scales[1], low=split)
        kernel[(ceil_div(tokens, _TILE["ROWS"]) * ceil_div(columns, 2 * _HALF),)](
            _blocks(own.rows, _TILE["ROWS"], _TILE["DEPTH"]),
            _blocks(theirs.rows, _HALF, _TILE["DEPTH"]),
            targets,
            1 / (own.scale * theirs.scale * temperature),
            picked,
            tops,
            sums,
            dots,
            tokens,
            columns,
            first,
            X=width,
            PARTS=2 if split else 1,
            COLUMNS=_HALF,
            **_TILE,
            num_warps=8,
            num_stages=4,
        )
        parts = ceil_div(columns, _HALF)
        join[(ceil_div(tokens, 32),)](
            picked, tops, sums, dots, state, logprobs, lse, entropy, tokens, parts, ROWS=32, PARTS=32, num_warps=4
        )
    return logprobs, lse, entropy


def _gradients(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    logprobs: Tensor,
    lse: Tensor,
    entropy: Tensor,
    hidden_scale: Tensor | None,
    weight_scale: Tensor | None,
    temperature: float,
    grad_logprobs: Tensor | None,
    grad_entropy: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Gradients of hidden states and weight, in their dtypes."""
    (tokens, width), vocabulary = hidden.shape, len(weight)
    own = operand(hidden, hidden_scale, low=False)
    factor = torch.zeros_like(lse) if grad_logprobs is None else grad_logprobs.float() / temperature
    by = factor if grad_entropy is None else grad_entropy.float() / temperature
    scale = None
    if own.rows.dtype == torch.float16:  # which has little range: the largest gradient goes to its upper end
        largest = factor.abs() if grad_entropy is None else factor.abs() + by.abs() * (entropy + 1)
        scale = power_of_two(largest)
        factor, by = factor * scale, by * scale
    step = _chunk(tokens, weight)
    grad_logits = torch.empty(tokens, step, dtype=own.rows.dtype, device=hidden.device)
    grad_hidden = torch.zeros(tokens, width, dtype=torch.float32, device=hidden.device)
    grad_weight = torch.empty_like(weight)
    kernel: Any = gradient_kernel
    for first in range(0, vocabulary, step):
        columns = min(step, vocabulary - first)
        theirs = operand(weight[first : first + columns], weight_scale, low=False)
        tiles = ceil_div(tokens, _TILE["ROWS"]) * ceil_div(columns, 256)
        kernel[(min(tiles, _programs(hidden.device)),)](
            _blocks(own.rows, _TILE["ROWS"], _TILE["DEPTH"]),
            _blocks(theirs.rows, 256, _TILE["DEPTH"]),
            _blocks(grad_logits[:, :columns], _TILE["ROWS"], 256),
            targets,
            1 / (own.scale * theirs.scale * temperature),
            logprobs,
            lse,
            entropy,
            factor,
            by,
            tokens,
            columns,
            first,
            X=width,
            ENTROPY=grad_entropy is not None,
            COLUMNS=256,
            **_TILE,
            num_warps=8,
            num_stages=3,
        )
        chunk = grad_logits[:, :columns]
        add_product(grad_hidden, chunk, theirs.rows)
        divisor = None if scale is None else scale * own.scale
        product(grad_weight[first : first + columns], chunk.T, own.rows, divisor)
    if scale is not None:
        grad_hidden /= scale * theirs.scale
    return grad_hidden.to(hidden.dtype), grad_weight


def _programs(device: torch.device) -> int:
    """One for each multiprocessor; a few in Triton's interpreter."""
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 3


def _chunk(tokens: int, weight: Tensor) -> int:
    """Columns of the vocabulary at one time: whole tiles, in chunks of like size; the weight bounds few tokens."""
    logits = _LOGITS_AT_ONCE // 4 if weight.dtype == torch.float32 else _LOGITS_AT_ONCE
    chunks = ceil_div(len(weight), max(256, logits // max(tokens, weight.shape[1])))
    return ceil_div(ceil_div(len(weight), chunks), 256) * 256


def _blocks(x: Tensor, rows: int, columns: int) -> TensorDescriptor:
    return TensorDescriptor.from_tensor(x, [rows, columns])
