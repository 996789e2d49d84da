"""Intervals for the population of problems: known values, limits of the numerics, and coverage by simulation."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest

from lightning_cispo.rl.intervals import mean_interval, weighted_mean_below

TAIL = 0.025
MEANS = (0.01, 0.1, 0.5, 0.9)
CONCENTRATIONS = (0.5, 2.0, math.inf)  # of the Beta distribution of the problems' pass rates


def binomial_tail(n: int, least: int, p: float) -> float:
    return sum(math.comb(n, i) * p**i * (1 - p) ** (n - i) for i in range(least, n + 1))


@pytest.mark.parametrize(("right", "n"), [(1, 2), (0, 1), (1, 1), (0, 30), (3, 30), (35, 100), (245, 600), (600, 600)])
def test_zeros_and_ones_get_the_exact_binomial_interval(right: int, n: int) -> None:
    low, high = mean_interval(np.array([1.0] * right + [0.0] * (n - right)))
    assert 0 <= low <= right / n <= high <= 1
    if right:
        assert binomial_tail(n, right, low) == pytest.approx(TAIL, abs=5e-4)
    if right < n:
        assert 1 - binomial_tail(n, right + 1, high) == pytest.approx(TAIL, abs=5e-4)
    assert (right > 0) or low == 0
    assert (right < n) or high == 1


@pytest.mark.parametrize("values", [[0.5, 0.5], [0.2, 0.9, 0.4], list(np.linspace(0, 1, 17)), [0.03] * 29 + [1.0]])
def test_limits_are_the_quantiles_of_randomly_weighted_means(values: list[float]) -> None:
    weights = np.random.default_rng(0).dirichlet(np.ones(len(values) + 1), 200_000)
    low, high = mean_interval(np.array(values))
    assert np.mean(weights @ [*values, 0.0] <= low) == pytest.approx(TAIL, abs=0.0015)
    assert np.mean(weights @ [*values, 1.0] >= high) == pytest.approx(TAIL, abs=0.0015)


def test_two_problems_of_which_one_is_solved_say_almost_nothing() -> None:
    assert mean_interval(np.array([1.0, 0.0])) == pytest.approx((0.01258, 0.98742), abs=1e-4)


def test_an_interval_mirrors_and_narrows_with_problems_and_with_agreement() -> None:
    values = np.random.default_rng(1).beta(0.5, 1.5, 40)
    low, high = mean_interval(values)
    assert mean_interval(1 - values) == pytest.approx((1 - high, 1 - low), abs=1e-7)
    large = np.random.default_rng(1).integers(0, 65, 20_000) / 64
    wide, narrow = (np.ptp(mean_interval(x)) for x in (large, 0.5 + (large - 0.5) / 10))
    assert wide == pytest.approx(2 * 1.96 * large.std() / len(large) ** 0.5, rel=0.02)
    assert wide / 11 < narrow < wide / 9
    assert np.ptp(mean_interval(large[:200])) > 9 * wide


@pytest.mark.parametrize("values", [[], [1.5], [-0.1, 0.5], [math.nan]])
def test_values_outside_the_range_are_refused(values: list[float]) -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        mean_interval(np.array(values))


def coverage(n: int, k: int, mean: float, concentration: float, datasets: int, seed: int) -> float:
    """Share of simulated evaluations whose interval holds the population's mean: where neither tail rules it out."""
    rng = np.random.default_rng([seed, n, k, int(1000 * mean)])
    size = (datasets, n)
    fixed = math.isinf(concentration)
    p = np.full(size, mean) if fixed else rng.beta(mean * concentration, (1 - mean) * concentration, size)
    correct = rng.binomial(k, p)
    counts = np.stack([(correct == c).sum(1) for c in range(k + 1)], 1).astype(np.float64)
    counts, times = np.unique(counts, axis=0, return_counts=True)
    low, high = counts.copy(), counts.copy()
    low[:, 0] += 1
    high[:, -1] += 1
    values = np.arange(k + 1) / k
    held = weighted_mean_below(mean, values, low) >= TAIL
    held &= weighted_mean_below(1 - mean, 1 - values, high) >= TAIL
    return float(times @ held) / datasets


def test_coverage_counts_what_the_interval_holds() -> None:
    rng = np.random.default_rng(2)
    for _ in range(40):
        correct, mean = rng.binomial(4, rng.beta(0.5, 0.5, 6)), rng.random()
        counts = np.bincount(correct, minlength=5).astype(np.float64)[None]
        low, high = mean_interval(correct / 4)
        low_counts, high_counts = counts + np.eye(5)[[0]], counts + np.eye(5)[[4]]
        values = np.arange(5) / 4
        assert (low <= mean) == (weighted_mean_below(mean, values, low_counts)[0] >= TAIL)
        assert (mean <= high) == (weighted_mean_below(1 - mean, 1 - values, high_counts)[0] >= TAIL)


@pytest.mark.parametrize("concentration", CONCENTRATIONS)
def test_intervals_hold_the_population_mean(concentration: float) -> None:
    """0.93 of 1,000 evaluations: 2.9 standard errors below the 0.95 that is claimed."""
    cells = [*product((2, 5), (1, 8), MEANS), *product((30,), (1, 32), MEANS), *product((100,), (4,), MEANS)]
    found = {cell: coverage(*cell, concentration, 1000, seed=0) for cell in cells}
    assert min(found.values()) >= 0.93, min(found.items(), key=lambda item: item[1])


@pytest.mark.soak
def test_intervals_hold_the_population_mean_on_a_large_grid() -> None:
    cells = product(
        (2, 3, 5, 10, 30, 100, 300, 600), (1, 2, 4, 8, 32), (0.001, *MEANS, 0.3, 0.98), (*CONCENTRATIONS, 0.1, 20)
    )
    found = {cell: coverage(*cell, 4000, seed=1) for cell in cells}
    assert min(found.values()) >= 0.94, min(found.items(), key=lambda item: item[1])
