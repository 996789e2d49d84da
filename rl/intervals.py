"""Confidence intervals for the mean of a bounded quantity, from few values of any distribution.

Gaffke's interval (Gaffke 2005; Learned-Miller & Thomas, arXiv 1905.06208): each limit is a quantile of the mean under
random Dirichlet(1, ..., 1) weights over the values and one more value at the end of the range. It assumes independent
values in [0, 1] and nothing else. On values of 0 and 1 it is Clopper and Pearson's.
"""

from __future__ import annotations

import math

import numpy as np

# Points u of the integral over du / u, and their weights: even in log u below 1 and in u above, where phases turn.
_STEP, _PART, _NEGLIGIBLE = 0.2, 100, 1e-9
_X = np.arange(-14.0, 200.0, _STEP)
_U = np.logaddexp(0.0, _X)
_WEIGHT_U = _STEP / (1 + np.exp(-_X)) / _U
_HALVINGS = 24


def mean_interval(values_N: np.ndarray, level: float = 0.95) -> tuple[float, float]:
    """Limits of the population mean of N independent values in [0, 1]. Raises ValueError without values or outside."""
    values_N = np.asarray(values_N, dtype=np.float64)
    if not len(values_N) or not (values_N.min() >= 0 and values_N.max() <= 1):
        raise ValueError("an interval needs at least one value, and all between 0 and 1")
    return _lower(values_N, (1 - level) / 2), 1 - _lower(1 - values_N, (1 - level) / 2)


def _lower(values_N: np.ndarray, tail: float) -> float:
    values_D, counts_D = np.unique(np.append(values_N, 0.0), return_counts=True)
    low, high = 0.0, float(values_D[-1])
    for _ in range(_HALVINGS if high else 0):
        middle = (low + high) / 2
        below = weighted_mean_below(middle, values_D, counts_D[None].astype(np.float64))[0]
        low, high = (middle, high) if below < tail else (low, middle)
    return low


def weighted_mean_below(bound: float, values_D: np.ndarray, counts_BD: np.ndarray) -> np.ndarray:
    """P(sum_d w_d values_d <= bound) [B] for weights w ~ Dirichlet(counts_BD).

    With w_d = g_d / sum(g) for gamma variables g it is P(Q <= 0) of Q = sum_d (values_d - bound) g_d, which an inverted
    characteristic function gives (Imhof 1961). Exact to 5e-4 between 0.02 and 0.98; beyond that it may be 0 or 1.
    """
    centred_D = values_D - bound
    mean_B, spread_B = counts_BD @ centred_D, np.sqrt(counts_BD @ centred_D**2)
    found_B = np.where(mean_B > 0, 0.0, 1.0)
    near_B = np.abs(mean_B) < 7 * spread_B  # Cantelli: beyond 7 deviations the tail is below 1 / 50
    if near_B.any():
        scaled_BD = centred_D / spread_B[near_B, None]
        found_B[near_B] = 0.5 - _imhof(scaled_BD, counts_BD[near_B]) / math.pi
    return found_B


def _imhof(scaled_BD: np.ndarray, counts_BD: np.ndarray) -> np.ndarray:
    """Integral over u > 0 of Im(characteristic function of sum_d scaled_d g_d)(u) / u [B]."""
    total_B = np.zeros(len(scaled_BD))
    for start in range(0, len(_U), _PART):
        part = slice(start, start + _PART)
        log_BU, phase_BU = np.zeros((2, len(total_B), len(_U[part])))
        for scaled_B, count_B in zip(scaled_BD.T, counts_BD.T, strict=True):
            x_BU = scaled_B[:, None] * _U[part]
            log_BU += count_B[:, None] * np.log1p(x_BU * x_BU)
            phase_BU += count_B[:, None] * np.arctan(x_BU)
        size_BU = np.exp(-log_BU / 2) * _WEIGHT_U[part]
        total_B += (size_BU * np.sin(phase_BU)).sum(1)
        if size_BU[:, -1].max() < _NEGLIGIBLE:
            break
    return total_B
