"""CISPO against spec'd golden values, and its place in the PPO family."""

import pytest
import torch

from lightning_cispo.configs.schema import AlgorithmConfig
from lightning_cispo.rl.objectives.cispo import cispo
from lightning_cispo.rl.objectives.supervised import supervised

LOGPROBS = [-0.7, -1.2, -0.4, -2.1]
ADVANTAGES = torch.tensor([1.0, -0.5, 2.0, -1.0])


def run(ratios, logprobs=LOGPROBS, advantages=ADVANTAGES, **options):
    logprobs_T = torch.tensor(logprobs, requires_grad=True)
    anchor_T = logprobs_T.detach() - torch.tensor(ratios).log()
    token = cispo(logprobs_T, anchor_T, anchor_T, advantages, AlgorithmConfig(**options))
    (gradient,) = torch.autograd.grad(token.loss_T.sum(), logprobs_T)
    return token, gradient


@pytest.mark.parametrize(
    ("ratios", "bounds", "losses", "total", "gradient", "clipped"),
    [
        ([1, 1.14, 1.56, 0.4], (0.8, 1.28), [0.7, -0.684, 1.024, -1.68], -0.64, [-1, 0.57, -2.56, 0.8], [0, 0, 1, 1]),
        ([1, 3, 9, 0.4], (0.0, 5.0), [0.7, -1.8, 4.0, -0.84], 2.06, [-1, 1.5, -10, 0.4], [0, 0, 1, 0]),
    ],
)
def test_golden_values(ratios, bounds, losses, total, gradient, clipped):
    token, found = run([float(r) for r in ratios], is_weight_min=bounds[0], is_weight_max=bounds[1])
    torch.testing.assert_close(token.loss_T, torch.tensor(losses), rtol=0, atol=1e-6)
    assert token.loss_T.sum().item() == pytest.approx(total, abs=1e-6)
    torch.testing.assert_close(found, torch.tensor(gradient, dtype=torch.float32), rtol=0, atol=2e-6)
    assert token.clipped_T.tolist() == [bool(c) for c in clipped]


def test_no_token_loses_its_gradient_to_the_clip():
    _, gradient = run([1e-3, 1e3, 50.0, 1.0], is_weight_min=0.0, is_weight_max=5.0)
    assert (gradient != 0).all()


def test_with_the_unified_mask_and_no_clip_the_gradient_is_ppos():
    generator = torch.Generator().manual_seed(0)
    logprobs = (-3 * torch.rand(500, generator=generator)).tolist()
    ratios = torch.exp(torch.randn(500, generator=generator) * 0.4)
    advantages = torch.randn(500, generator=generator)
    token, ours = run(ratios.tolist(), logprobs, advantages, is_weight_max=float("inf"), unified_mask=True)

    policy = torch.tensor(logprobs, requires_grad=True)
    ratio = (policy - (torch.tensor(logprobs) - ratios.log())).exp()
    surrogate = torch.min(ratio * advantages, ratio.clamp(0.8, 1.2) * advantages)
    (ppo,) = torch.autograd.grad(-surrogate.sum(), policy)
    torch.testing.assert_close(ours, ppo, rtol=1e-4, atol=1e-6)
    assert 0 < int((ours == 0).sum()) < 500


def test_truncated_importance_sampling_caps_the_mismatch():
    logprobs_T = torch.tensor([-1.0, -1.0], requires_grad=True)
    sampler_T = torch.tensor([-1.0 - 3.0, -1.0 + 1.0])
    token = cispo(logprobs_T, logprobs_T.detach(), sampler_T, torch.ones(2), AlgorithmConfig(truncated_is_max=2.0))
    torch.testing.assert_close(token.weight_T, torch.tensor([2.0, torch.exp(torch.tensor(-1.0))]))


def test_supervised_is_cross_entropy():
    logprobs_T = torch.tensor(LOGPROBS, requires_grad=True)
    (gradient,) = torch.autograd.grad(supervised(logprobs_T).loss_T.sum(), logprobs_T)
    assert gradient.tolist() == [-1.0] * 4
