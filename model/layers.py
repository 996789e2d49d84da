"""What every layer is made of: norm, linear map, rotary embedding, and the state carried between calls."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_cispo.kernels.head.logprobs import head_logprobs
from lightning_cispo.kernels.linear import linear
from lightning_cispo.kernels.norm.rms_norm import added_stream_norm, rms_norm, stream_norm
from lightning_cispo.model.routing import Routing


def at_least_float32(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


class RMSNorm(nn.Module):
    """weight * (x / rms(x)), times sigmoid(gate) where a gate is given."""

    def __init__(self, size: int, eps: float):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: Tensor, gate: Tensor | None = None, dtype: torch.dtype | None = None) -> Tensor:
        return rms_norm(x, self.weight, self.eps, gate, dtype)


class StreamNorm(RMSNorm):
    """From the residual stream: what the residual goes on from, and what the layer reads, in `dtype`."""

    def forward(self, x_TX: Tensor, dtype: torch.dtype, postnorm: bool) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        return stream_norm(x_TX, self.weight, self.eps, dtype, postnorm)


class AddedStreamNorm(RMSNorm):
    """From alpha * residual + beta * update: what the residual goes on from, and its norm, unrounded and in the
    update's dtype."""

    def forward(  # type: ignore[override]
        self, residual_TX: Tensor, update_TX: Tensor, scales: tuple[float, float], postnorm: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        return added_stream_norm(residual_TX, update_TX, scales, self.weight, self.eps, postnorm)


class Linear(nn.Module):
    """y = x W^T without bias, computed in x's dtype: float32 master weights serve bf16 activations."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(outputs, inputs))

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight)


class LMHead(Linear):
    """The head in float32 at both ends: without it M1's reward did not grow (arXiv 2506.13585, section 3.2)."""

    def forward(
        self,
        hidden_TX: Tensor,
        targets_T: Tensor | None = None,
        temperature: float = 1.0,
        token_weights_T: Tensor | None = None,
    ) -> Any:
        """Logits [T, V]; or, given targets, their log-probabilities [T] and the entropies [T], times the weights if
        there are any. Float32 or better.

        Both go through `forward` because that is where ZeRO-3 gathers the weight.
        """
        if targets_T is None:
            return super().forward(hidden_TX.to(at_least_float32(hidden_TX.dtype)))
        return head_logprobs(hidden_TX, self.weight, targets_T, temperature, token_weights_T)


def rotary_tables(positions_T: Tensor, dims: int, theta: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """cos, sin [T, dims / 2] for computing in float32 or `dtype`, whichever is wider.

    Their values are those of the release's float32 tables, in float64 too: exact ones would differ from what the
    weights were trained with. Computed when needed, as a table for 10M positions takes gigabytes.
    """
    angles = positions_T.float()[:, None] * rotary_frequencies(dims, theta, positions_T.device)
    return angles.cos().to(at_least_float32(dtype)), angles.sin().to(at_least_float32(dtype))


def rotary_frequencies(dims: int, theta: float, device: torch.device) -> Tensor:
    """Radians a position [dims / 2], float32."""
    return 1.0 / theta ** (torch.arange(0, dims, 2, dtype=torch.float32, device=device) / dims)


def rotate(x_THD: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Half-split (neox) rotation of the first 2 * cos.shape[1] dims of each head; the rest passes through.

    One Triton kernel forward and one backward on CUDA; elsewhere, and in float64, torch.
    """
    if x_THD.is_cuda and x_THD.dtype != torch.float64:
        from lightning_cispo.kernels.exact.rotary_triton import Rotate

        return Rotate.apply(x_THD, cos, sin)
    return rotate_reference(x_THD, cos, sin)


def rotate_reference(x_THD: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """The same in torch."""
    half = cos.shape[1]
    first, second, rest = x_THD.split([half, half, x_THD.shape[-1] - 2 * half], dim=-1)
    a, b = first.to(cos.dtype), second.to(cos.dtype)
    cos, sin = cos[:, None], sin[:, None]
    return torch.cat([(a * cos - b * sin).to(x_THD.dtype), (b * cos + a * sin).to(x_THD.dtype), rest], dim=-1)


def swap_classes(network: nn.Module, swapped: Mapping[type[nn.Module], type[nn.Module]]) -> None:
    """Modules of exactly these classes compute as those do from now on; parameters and their names stay."""
    module: Any
    for module in network.modules():
        module.__class__ = swapped.get(type(module), type(module))


@dataclass
class Context:
    """What S packed sequences leave behind for their continuation, by layer index."""

    lengths_S: Tensor  # int64 tokens so far
    states: dict[int, Tensor] = field(default_factory=dict)  # lightning: [S, H, D, D]
    keys: dict[int, Tensor] = field(default_factory=dict)  # softmax: packed [sum of lengths, Kv, D]
    values: dict[int, Tensor] = field(default_factory=dict)
    tails: dict[int, Tensor] = field(default_factory=dict)  # exact mode on GPUs: [S, H, keys and values, tile, D]


@dataclass
class Packed:
    """The geometry of one pass over packed rows, shared by its layers."""

    cu_seqlens: Tensor  # int64 [S + 1]
    cos: Tensor
    sin: Tensor
    past: Context | None = None
    future: Context | None = None  # filled by the layers when the caller wants to go on
    routing: Routing | None = None  # experts to keep to, or to be told of
    dtype: torch.dtype = torch.float32  # that layers compute in; the residual stream may be wider

    @property
    def cu_seqlens_k(self) -> Tensor:
        """Borders of the keys, left context included."""
        if self.past is None:
            return self.cu_seqlens
        return self.cu_seqlens + F.pad(self.past.lengths_S.cumsum(0), (1, 0))


def join_packed(old_UKD: Tensor, old_lengths_S: Tensor, new_TKD: Tensor, cu_seqlens: Tensor) -> Tensor:
    """Packed rows of S sequences, each followed by its new rows."""
    olds = old_UKD.split(old_lengths_S.tolist())
    news = new_TKD.split((cu_seqlens[1:] - cu_seqlens[:-1]).tolist())
    return torch.cat([part for pair in zip(olds, news, strict=True) for part in pair])
