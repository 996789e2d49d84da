"""Counter-based randomness: a number is a function of (seed, prompt, sample, position), not of who drew it or when."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
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
