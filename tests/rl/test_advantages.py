import numpy as np
import pytest

from lightning_cispo.configs.schema import AlgorithmConfig, Contrast, Normalization
from lightning_cispo.rl.advantages import group_advantages, informative, loss_scales, to_samples
from lightning_cispo.rl.types import Group
from tests.rl.builders import group, trajectory


def test_advantages_are_standardised_over_the_group():
    found = group_advantages(np.array([1.0, 0.0, 0.0, 1.0, 1.0]), divide_by_std=True)
    assert found.mean() == pytest.approx(0, abs=1e-12) and found.std() == pytest.approx(1)
    assert group_advantages(np.array([1.0, 0.0]), divide_by_std=False).tolist() == [0.5, -0.5]
    assert group_advantages(np.full(4, 0.1 + 0.2), divide_by_std=True).tolist() == [0.0] * 4


@pytest.mark.parametrize("divide", [True, False])
@pytest.mark.parametrize("rewards", [(0.1 + 0.2, 0.3), (1e6, 1e6 + 1), (-0.7, -0.7 * (1 + 9e-7), -0.7), (0.0, 0.0)])
def test_rewards_that_differ_by_rounding_are_equal(rewards, divide):
    assert group_advantages(np.array(rewards), divide).tolist() == [0.0] * len(rewards)
    assert not informative(group(list(rewards)))


def test_small_and_offset_rewards_that_differ_are_standardised():
    assert group_advantages(np.array([1e-9, 0.0]), divide_by_std=True).tolist() == [1.0, -1.0]
    found = group_advantages(np.array([1e6, 1e6 + 2, 1e6 + 2, 1e6 + 4]), divide_by_std=True)
    np.testing.assert_allclose(found, np.array([-1, 0, 0, 1]) * 2**0.5, atol=1e-15)
    rng = np.random.default_rng(0)
    for size in (2, 3, 7, 16):
        found = group_advantages(1e5 + rng.random(size), divide_by_std=True)
        assert abs(found.mean()) < 1e-15 and found.std() == pytest.approx(1, rel=1e-12)


def test_groups_of_equal_rewards_are_uninformative():
    assert not informative(group([1.0, 1.0])) and not informative(group([0.0, 0.0])) and not informative(group([]))
    assert informative(group([1.0, 0.0])) and informative(group([0.3, -0.2]))
    assert informative(group([0.25, 0.5, 0.75])), "a judge's grades are a contrast"
    assert informative(Group(group([]).prompt, [trajectory(r, correct=False) for r in (-1.0, 0.0)])), "pairwise too"
    assert informative(group([0.0, -0.5])), "and so is a length penalty"
    assert not informative(group([1.0, None])), "a failed verifier is no contrast"


def test_contrast_in_correctness_looks_at_nothing_else():
    def by_correctness(rewards):
        return informative(group(rewards), Contrast.correct)

    assert by_correctness([1.0, 0.0]) and by_correctness([0.3, -0.2])
    assert not by_correctness([0.0, -0.5]) and not by_correctness([0.5, 0.75]) and not by_correctness([1.0, None])


def test_graded_groups_have_advantages_wherever_they_are_kept():
    samples = to_samples([group([0.25, 0.75, 0.5, 0.5])], AlgorithmConfig(), max_tokens=64)
    np.testing.assert_allclose([sample.advantage for sample in samples], np.array([-1, 1, 0, 0]) * 2**0.5)


@pytest.mark.parametrize(
    ("normalization", "expected"),
    [
        (Normalization.prompt, [[1 / 8, 1 / 8], [1 / 20, 1 / 20]]),
        (Normalization.batch, [[1 / 14] * 2, [1 / 14] * 2]),
        (Normalization.sample, [[1 / 4, 1 / 12], [1 / 16, 1 / 24]]),
        (Normalization.constant, [[1 / 400] * 2, [1 / 400] * 2]),
    ],
)
def test_loss_scales(normalization, expected):
    found = loss_scales([[1, 3], [4, 6]], normalization, max_tokens=100)
    np.testing.assert_allclose(found, expected)


def test_failed_verifiers_are_masked_not_scored_zero():
    found = to_samples([group([1.0, None, 0.0], [3, 50, 5]), group([None, None])], AlgorithmConfig(), max_tokens=64)
    assert [len(sample.tokens_T) - 2 for sample in found] == [3, 5], "neither a sample nor a share of the denominator"
    assert [sample.advantage for sample in found] == [1.0, -1.0]
    assert all(sample.scale == pytest.approx(1 / 8) for sample in found)


def test_only_response_tokens_count():
    (first, _) = to_samples([group([1.0, 0.0])], AlgorithmConfig(), max_tokens=64)
    assert first.tokens_T.tolist() == [7, 8, 0, 1, 2]
    assert first.loss_mask_T.tolist() == [False, False, True, True, True]
    assert first.anchor_T.tolist() == [0, 0, -0.5, -0.5, -0.5]
