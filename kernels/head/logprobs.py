"""LM head to log-probabilities of given tokens, never holding [T, V]."""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_cispo.kernels.function import Function
from lightning_cispo.kernels.native import train as native_train
from lightning_cispo.kernels.native.library import serves

# Rows of logits that stand at one time: 2^24 float32 numbers, 64 MiB.
_LOGITS_AT_ONCE = 1 << 24


def head_logprobs(
    hidden_TX: Tensor,
    weight_VX: Tensor,
    targets_T: Tensor,
    temperature: float = 1.0,
    token_weights_T: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """log softmax(hidden @ weight^T / temperature)[target] and the entropy of that distribution, both differentiable.

    In Triton on CUDA for bf16 or float16 hidden states with a weight in their dtype or float32; elsewhere in torch.

    Args: hidden_TX [T, X], weight_VX [V, X] in any float dtype; targets_T int64 [T], from 0 to V - 1; token_weights_T
        [T] multiplies what is returned for each token, 1 if absent.
    Returns: logprobs [T], entropy [T] in nats, float32 (float64 if the hidden states are).
    Raises: ValueError for shapes, dtypes or devices that don't agree, or a temperature that is not positive.
    Logits are formed in float32 or better: bf16 rounding of them is the main source of trainer-sampler mismatch.
    """
    _refuse_unfit(hidden_TX, weight_VX, targets_T, temperature, token_weights_T)
    if in_triton(hidden_TX, weight_VX):
        from lightning_cispo.kernels.head.launch import head_logprobs_triton

        logprobs_T, entropy_T = head_logprobs_triton(hidden_TX, weight_VX, targets_T, temperature)
    else:
        logprobs_T, entropy_T = SlicedLogprobs.apply(hidden_TX, weight_VX, targets_T, temperature)
    if token_weights_T is None:
        return logprobs_T, entropy_T
    return logprobs_T * token_weights_T, entropy_T * token_weights_T


def in_triton(hidden_TX: Tensor, weight_VX: Tensor) -> bool:
    """What its tiles take: rows of whole 16 bytes, not none of them."""
    fits = hidden_TX.shape[1] % 8 == 0 and len(hidden_TX) > 0
    known = hidden_TX.dtype in (torch.bfloat16, torch.float16) and weight_VX.dtype in (hidden_TX.dtype, torch.float32)
    return hidden_TX.is_cuda and fits and known


def _refuse_unfit(
    hidden_TX: Tensor, weight_VX: Tensor, targets_T: Tensor, temperature: float, token_weights_T: Tensor | None
) -> None:
    for name, x in (("hidden", hidden_TX), ("weight", weight_VX)):
        if x.dim() != 2 or not x.is_floating_point():
            raise ValueError(f"{name} is {tuple(x.shape)} {x.dtype}: must be a matrix of floats")
    if weight_VX.shape[1] != hidden_TX.shape[1]:
        raise ValueError(f"weight has rows of {weight_VX.shape[1]}, hidden of {hidden_TX.shape[1]}: must agree")
    if targets_T.shape != hidden_TX.shape[:1] or targets_T.dtype != torch.int64:
        raise ValueError(
            f"targets is {tuple(targets_T.shape)} {targets_T.dtype}: must be int64, one for each of "
            f"{len(hidden_TX)} rows of hidden"
        )
    if token_weights_T is not None and token_weights_T.shape != targets_T.shape:
        raise ValueError(f"token_weights is {tuple(token_weights_T.shape)}: must be one a row, {len(hidden_TX)}")
    for name, tensor in (("weight", weight_VX), ("targets", targets_T), ("token_weights", token_weights_T)):
        if tensor is not None and tensor.device != hidden_TX.device:
            raise ValueError(f"{name} is on {tensor.device}, hidden on {hidden_TX.device}")
    if not temperature > 0:
        raise ValueError(f"temperature is {temperature}: must be positive")


class SlicedLogprobs(Function):
    """Some rows of logits at a time, natively or in torch; computed again for the gradient."""

    @staticmethod
    def forward(ctx, hidden, weight, targets, temperature):
        compute = torch.float64 if hidden.dtype == torch.float64 else torch.float32
        wide_weight = weight.to(compute)
        logprobs = torch.empty(len(targets), dtype=compute, device=hidden.device)
        lse, entropy = torch.empty_like(logprobs), torch.empty_like(logprobs)
        for rows in row_slices(hidden, weight):
            if serves(hidden, weight):
                logits = native_train.matmul(hidden[rows], weight.T)
                lse[rows], logprobs[rows], entropy[rows] = native_train.softmax_statistics(
                    logits, targets[rows], temperature
                )
                continue
            logits = hidden[rows].to(compute) @ wide_weight.T / temperature
            lse[rows] = logits.logsumexp(-1)
            logprobs[rows] = logits.gather(-1, targets[rows, None]).squeeze(-1) - lse[rows]
            probs = (logits - lse[rows, None]).exp_()
            entropy[rows] = lse[rows] - (probs * logits).sum(-1)
        ctx.save_for_backward(hidden, weight, targets, lse, entropy)
        ctx.temperature = temperature
        return logprobs, entropy

    @staticmethod
    def backward(ctx, grad_logprobs, grad_entropy):
        hidden, weight, targets, lse, entropy = ctx.saved_tensors
        wide_weight = weight.to(lse.dtype)
        grad_hidden = torch.empty_like(hidden)
        grad_weight = torch.zeros_like(wide_weight)
        entropy_matters = bool(grad_entropy.any())
        for rows in row_slices(hidden, weight):
            if serves(hidden, weight):
                logits = native_train.matmul(hidden[rows], weight.T)
                given = (lse[rows], entropy[rows], grad_logprobs[rows], grad_entropy[rows])
                native_train.softmax_gradient(logits, targets[rows], ctx.temperature, *given)
                native_train.matmul(logits, weight, into=grad_hidden[rows])
                native_train.matmul(logits.T, hidden[rows], into=grad_weight, add=True)
                continue
            wide_hidden = hidden[rows].to(lse.dtype)
            logp = (wide_hidden @ wide_weight.T).div_(ctx.temperature).sub_(lse[rows, None])
            probs = logp.exp()
            # d logprob / d logit = onehot - p;  d entropy / d logit = -p (log p + entropy)
            grad_logits = probs * -grad_logprobs[rows, None]
            if entropy_matters:
                grad_logits -= probs * (logp + entropy[rows, None]) * grad_entropy[rows, None]
            grad_logits.scatter_add_(-1, targets[rows, None], grad_logprobs[rows, None].to(lse.dtype))
            grad_logits /= ctx.temperature
            grad_hidden[rows] = (grad_logits @ wide_weight).to(hidden.dtype)
            grad_weight.addmm_(grad_logits.T, wide_hidden)
        return grad_hidden, grad_weight.to(weight.dtype), None, None


def row_slices(hidden_TX: Tensor, weight_VX: Tensor) -> list[slice]:
    """Of as many rows as may have logits at one time."""
    rows = max(1, _LOGITS_AT_ONCE // len(weight_VX))
    return [slice(start, start + rows) for start in range(0, len(hidden_TX), rows)]
