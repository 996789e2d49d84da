"""pass@1, avg@k and pass@k with 95 % intervals, the problem being the unit of sampling."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lightning_cispo.rl.intervals import mean_interval


@dataclass(frozen=True)
class Estimate:
    """A mean over `problems` problems with its 95 % interval, for the population that the problems stand for."""

    value: float
    low: float
    high: float
    problems: int

    def __str__(self) -> str:
        return f"{100 * self.value:.1f} % [{100 * self.low:.1f}, {100 * self.high:.1f}]"


def pass_at_k(correct: int, samples: int, k: int) -> float:
    """Chance that one of k out of `samples` responses is right (Chen et al., arXiv 2107.03374, equation 1)."""
    if not 1 <= k <= samples:
        raise ValueError(f"pass@{k} needs at least {k} samples, there are {samples}")
    return 1.0 - math.comb(samples - correct, k) / math.comb(samples, k)


def mean_estimate(values: Sequence[float]) -> Estimate:
    """Mean of one value in [0, 1] a problem."""
    values_P = np.array(values, dtype=np.float64)
    return Estimate(float(values_P.mean()), *mean_interval(values_P), len(values_P))


def estimates(correct_by_problem: Sequence[Sequence[bool]], samples: int = 0) -> dict[str, Estimate]:
    """`pass@1`, and with k > 1 samples a problem also `avg@k` and `pass@k` for the powers of two up to k and k itself.

    pass@1 and avg@k are one value, the mean over samples, then over problems. Problems without a verdict are left out,
    and of pass@k those with fewer than k. `samples` is how many each problem was given (0: the most that any has).
    Empty where no response has a verdict.
    """
    judged = [results for results in correct_by_problem if results]
    if not judged:
        return {}
    found = {"pass@1": mean_estimate([float(np.mean(results)) for results in judged])}
    samples = samples or max(map(len, judged))
    if samples > 1:
        found[f"avg@{samples}"] = found["pass@1"]
    for k in sorted({2**i for i in range(1, samples.bit_length()) if 2**i < samples} | {samples} - {1}):
        if enough := [results for results in judged if len(results) >= k]:
            found[f"pass@{k}"] = mean_estimate([pass_at_k(sum(results), len(results), k) for results in enough])
    return found
