"""Counter-based randomness: a number is a function of (seed, prompt, sample, position), not of who drew it or when."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor

_GOLDEN, _MIX_1, _MIX_2 = (c - (1 << 64) for c in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))


def stream_key(*parts: int | str) -> int:
    """A signed 64-bit key for a stream of random numbers, from anything that names it."""
    text = "\x1f".join(str(part) for part in parts)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little", signed=True)


def uniform(keys_B: Tensor, positions_B: Tensor) -> Tensor:
    """Uniforms in [0, 1), float64 [B], the `position`-th of each stream: splitmix64 (Steele et al. 2014).

    keys_B, positions_B: int64 [B].
    """
    z = keys_B + (positions_B + 1) * _GOLDEN
    z = (z ^ _shift(z, 30)) * _MIX_1
    z = (z ^ _shift(z, 27)) * _MIX_2
    z = z ^ _shift(z, 31)
    return _shift(z, 11).double() * 2.0**-53


def _shift(x: Tensor, bits: int) -> Tensor:
    """Logical right shift: torch's is arithmetic on int64."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def sample(logits_BV: Tensor, temperature_B: Tensor, uniform_B: Tensor) -> tuple[Tensor, Tensor]:
    """Tokens by inverse CDF and their log-probabilities at that temperature.

    logits_BV: float32 [B, V]; temperature_B: float32 [B] (0: greedy); uniform_B: float64 [B].
    Returns: tokens int64 [B]; logprobs float32 [B], under exactly the distribution they were drawn from.
    """
    greedy_B = temperature_B == 0
    logp_BV = (logits_BV / temperature_B.masked_fill(greedy_B, 1.0)[:, None]).log_softmax(-1)
    cdf_BV = logp_BV.double().exp_().cumsum(-1)
    tokens_B = torch.searchsorted(cdf_BV, (uniform_B * cdf_BV[:, -1])[:, None], right=True).squeeze(1)
    tokens_B = tokens_B.clamp_(max=logits_BV.shape[1] - 1).where(~greedy_B, logits_BV.argmax(-1))
    return tokens_B, logp_BV.gather(1, tokens_B[:, None]).squeeze(1)
