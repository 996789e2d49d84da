import numpy as np
import pytest

from lightning_cispo.configs.schema import AlgorithmConfig, Normalization
from lightning_cispo.rl.advantages import group_advantages, informative, loss_scales, to_samples
from tests.rl.builders import group


def test_advantages_are_standardised_over_the_group():
    found = group_advantages(np.array([1.0, 0.0, 0.0, 1.0, 1.0]), divide_by_std=True)
    assert found.mean() == pytest.approx(0, abs=1e-12) and found.std() == pytest.approx(1)
    assert group_advantages(np.array([1.0, 0.0]), divide_by_std=False).tolist() == [0.5, -0.5]
    assert group_advantages(np.full(4, 0.1 + 0.2), divide_by_std=True).tolist() == [0.0] * 4


def test_groups_without_contrast_in_correctness_are_uninformative():
    assert not informative(group([1.0, 1.0])) and not informative(group([0.0, 0.0]))
    assert informative(group([1.0, 0.0]))
    shaped = group([0.3, -0.2])  # rewards differ, correctness ...
    assert informative(shaped)
    assert not informative(group([0.0, -0.5])), "a length penalty alone is no contrast"
    assert not informative(group([1.0, None])), "a failed verifier is no contrast"


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
