"""pass@1, avg@k and pass@k with 95 % intervals, the problem being the unit of sampling."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

_Z = 1.959963984540054  # 97.5 % quantile of the normal distribution


@dataclass(frozen=True)
class Estimate:
    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{100 * self.value:.1f} % [{100 * self.low:.1f}, {100 * self.high:.1f}]"


def wilson(successes: int, trials: int) -> Estimate:
    """Wilson's score interval of a proportion. Raises ValueError without a trial."""
    if trials < 1:
        raise ValueError("an interval needs at least one trial")
    p, z2 = successes / trials, _Z**2
    centre = (p + z2 / (2 * trials)) / (1 + z2 / trials)
    half = _Z / (1 + z2 / trials) * math.sqrt(p * (1 - p) / trials + z2 / (4 * trials**2))
    return Estimate(p, max(0.0, centre - half), min(1.0, centre + half))


def pass_at_k(correct: int, samples: int, k: int) -> float:
    """Chance that one of k out of `samples` responses is right (Chen et al., arXiv 2107.03374, equation 1)."""
    if not 1 <= k <= samples:
        raise ValueError(f"pass@{k} needs at least {k} samples, there are {samples}")
    return 1.0 - math.comb(samples - correct, k) / math.comb(samples, k)


def mean_estimate(values_P: np.ndarray) -> Estimate:
    """Mean of one value a problem: Wilson's interval where all are 0 or 1, else 10,000 bootstrap draws of problems."""
    if np.isin(values_P, (0.0, 1.0)).all():
        return wilson(int(values_P.sum()), len(values_P))
    draws = np.random.default_rng(0).integers(0, len(values_P), (10_000, len(values_P)))
    low, high = np.quantile(values_P[draws].mean(1), (0.025, 0.975))
    return Estimate(float(values_P.mean()), float(low), float(high))


def estimates(correct_by_problem: list[list[bool]]) -> dict[str, Estimate]:
    """`pass@1`, and with k > 1 samples a problem also `avg@k` and `pass@k` for the powers of two up to k and k itself.

    pass@1 and avg@k are one value, the mean over all samples: the first is its name whatever the number of samples.
    """
    found = {"pass@1": mean_estimate(np.array([np.mean(results) for results in correct_by_problem]))}
    samples = min(len(results) for results in correct_by_problem)
    if samples > 1:
        found[f"avg@{samples}"] = found["pass@1"]
        powers = {2**i for i in range(1, samples.bit_length()) if 2**i < samples} | {samples}
        for k in sorted(powers):
            values = [pass_at_k(sum(results[:samples]), samples, k) for results in correct_by_problem]
            found[f"pass@{k}"] = mean_estimate(np.array(values))
    return found
