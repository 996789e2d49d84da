import math
from dataclasses import replace

import pytest
import torch

from lightning_cispo.configs.schema import AlgorithmConfig
from lightning_cispo.rl.accuracy import estimates, pass_at_k
from lightning_cispo.rl.guard import guarded
from lightning_cispo.rl.objectives.cispo import cispo
from lightning_cispo.rl.statistics import UpdateSums, update_sums
from lightning_cispo.rl.summary import accuracy, evaluation_metrics, response_metrics, thought, verifier_error
from lightning_cispo.rl.types import Group
from tests.rl.builders import group, trajectory


def sums_of(rows):
    generator = torch.Generator().manual_seed(0)
    learner, sampler = -torch.rand(2, 40, generator=generator)
    advantages, scales = torch.randn(40, generator=generator), torch.full((40,), 1 / 30)
    scales[30:] = 0
    learner, sampler, advantages, scales = (x[rows] for x in (learner, sampler, advantages, scales))
    token = cispo(learner, sampler, sampler, advantages, AlgorithmConfig(is_weight_max=1.2))
    return (
        UpdateSums.of([update_sums(token, learner, sampler, -learner, advantages, scales)]),
        learner[scales != 0],
        sampler[scales != 0],
    )


def test_metrics_over_counted_tokens_only():
    sums, learner, sampler = sums_of(slice(0, 40))
    metrics = sums.metrics()
    ratio = (learner - sampler).exp().double()
    weight = ratio.clamp(max=1.2)
    assert sums.tokens == 30
    assert metrics["policy/ratio_mean"] == pytest.approx(ratio.mean().item(), rel=1e-5)
    assert metrics["policy/ratio_max"] == pytest.approx(ratio.max().item())
    assert metrics["policy/clip_fraction"] == pytest.approx((ratio > 1.2).float().mean().item())
    assert metrics["policy/ess"] == pytest.approx((weight.sum() ** 2 / (30 * weight.square().sum())).item(), rel=1e-5)
    correlation = torch.corrcoef(torch.stack([learner.exp(), sampler.exp()]).double())[0, 1]
    assert metrics["policy/pearson"] == pytest.approx(correlation.item(), rel=1e-4)
    assert metrics["policy/k3_kl"] == pytest.approx((ratio - 1 - ratio.log()).mean().item(), rel=1e-4)


def test_parts_add_up_to_the_whole():
    whole, _, _ = sums_of(slice(0, 40))
    parts = UpdateSums()
    for rows in (slice(0, 11), slice(11, 12), slice(12, 40)):
        parts.add(sums_of(rows)[0])
    for name, value in whole.metrics().items():
        assert parts.metrics()[name] == pytest.approx(value, rel=1e-6), name


def test_tokens_that_are_not_counted_say_nothing_whatever_they_hold():
    numbers, nothing = torch.tensor([-1.0, float("nan"), float("inf")]), torch.zeros(3)
    token = cispo(numbers, nothing, nothing, numbers, AlgorithmConfig())
    parts = [
        update_sums(token, numbers, nothing, numbers, numbers, torch.tensor(scales), torch.tensor(0.5))
        for scales in ([0.5, 0.0, 0.0], [0.0, 0.0, 0.0])
    ]
    first, both, none = UpdateSums.of(parts[:1]), UpdateSums.of(parts), UpdateSums.of(parts[1:])
    assert none == replace(UpdateSums(), aux_loss=0.5) and not none.metrics()
    assert both == replace(first, aux_loss=1.0) and first.tokens == 1 and first.aux_loss == 0.5
    assert all(math.isfinite(value) for value in first.metrics().values())


def moments(p, q):
    """Sums of tokens whose learner and sampler probabilities are p and q."""
    found = {"p": p.sum(), "q": q.sum(), "pp": (p * p).sum(), "qq": (q * q).sum(), "pq": (p * q).sum()}
    return UpdateSums(tokens=float(len(p)), **{name: float(value) for name, value in found.items()})


def test_correlation_of_nearly_constant_probabilities_is_a_number():
    generator = torch.Generator().manual_seed(0)
    found = []
    for case in range(3000):
        noise = torch.randn(2, 40, dtype=torch.float64, generator=generator)
        p, q = 0.5 + noise * 10.0 ** -(3 + case % 14)
        found.append(moments(p, q).metrics()["policy/pearson"])
    assert all(isinstance(value, float) and -1 <= value <= 1 for value in found)
    assert set(found[3::14]) != {1.0} and set(found[13::14]) == {1.0}, "constant only where float64 can't tell"


def test_correlation_survives_a_variance_that_rounding_made_negative():
    sums = UpdateSums(tokens=2.0, p=1.0, q=1.0, pp=0.5 - 1e-16, qq=0.6, pq=0.5)
    assert sums.metrics()["policy/pearson"] == 1.0
    assert math.isnan(replace(sums, pp=math.nan).metrics()["policy/pearson"])


def test_weights_of_any_size_have_an_effective_sample_size():
    huge = UpdateSums(tokens=2.0, weight=1e200, weight_squared=math.inf)
    assert not huge.metrics()["policy/ess"] > 1


def test_metrics_that_fail_are_logged_and_left_out(caplog):
    def compute(x):
        return {"a": 1 / x}

    assert guarded(compute, 2) == {"a": 0.5} and not caplog.records
    assert guarded(compute, 0) == {}
    assert "compute failed" in caplog.text and "ZeroDivisionError" in caplog.text


def test_pass_at_k():
    assert pass_at_k(correct=1, samples=4, k=2) == pytest.approx(1 - math.comb(3, 2) / math.comb(4, 2))
    assert pass_at_k(0, 4, 4) == 0 and pass_at_k(4, 4, 1) == 1
    found = estimates([[True, False, False, False], [True, True, True, True], [False, False, False, False]])
    assert found["pass@1"].value == pytest.approx(5 / 12)  # of all samples, not of the first
    assert found["avg@4"] == found["pass@1"]
    assert found["pass@4"].value == pytest.approx(2 / 3)
    assert found["pass@2"].value == pytest.approx((0.5 + 1 + 0) / 3)
    assert all(e.low <= e.value <= e.high for e in found.values())


def test_a_masked_verdict_renames_nothing():
    whole, masked = [[True] + [False] * 7, [False] * 8, [True] * 8], [[False] * 7, [True] * 8, [True] * 8]
    names = {"pass@1", "avg@8", "pass@2", "pass@4", "pass@8"}
    assert estimates(whole).keys() == estimates(masked).keys() == names
    found = estimates(masked)
    assert found["pass@8"].problems == 2 and found["pass@4"].problems == found["pass@1"].problems == 3
    assert found["pass@1"].value == pytest.approx(2 / 3) and found["pass@8"].value == 1
    assert estimates([[True] * 7, []], samples=8).keys() == names - {"pass@8"}, "no problem has 8 verdicts"


def test_estimates_without_a_verdict_are_none():
    assert estimates([]) == {} == estimates([[], []], samples=4)
    assert estimates([[True], []])["pass@1"].problems == 1


def test_response_metrics():
    metrics = response_metrics([group([1.0, 0.0, None], [3, 5, 100])])
    assert metrics["reward/mean"] == 0.5 and metrics["groups/masked"] == 1
    assert metrics["response/tokens_mean"] == 36 and metrics["response/tokens_p50"] == 5


def test_correct_is_what_the_verdict_says_whatever_the_reward():
    shaped = Group(group([]).prompt, [trajectory(0.2, correct=True), trajectory(0.9, correct=False), trajectory(None)])
    assert response_metrics([shaped])["reward/correct"] == 0.5


def test_problems_that_were_judged_are_counted():
    metrics = evaluation_metrics([group([1.0]), group([None]), group([0.0, None])])
    assert metrics["eval/problems"] == 2 and metrics["eval/masked"] == 2 and metrics["eval/pass@1"] == 0.5


def test_an_evaluation_without_a_verdict_has_no_accuracy_and_quotes_the_verifier():
    failed = trajectory(None)
    said = replace(failed, verdict=replace(failed.verdict, error="my_verifier raised NameError: x"))
    groups = [Group(group([]).prompt, [said, failed])]
    metrics = evaluation_metrics(groups)
    assert metrics["eval/problems"] == 0 and metrics["eval/masked"] == 2 and metrics["eval/tokens_mean"] == 3
    assert not any("pass@" in name for name in metrics) and accuracy(groups) == {}
    assert verifier_error(groups) == "my_verifier raised NameError: x" and verifier_error([group([1.0])]) == ""
    assert evaluation_metrics([])["eval/problems"] == 0


@pytest.mark.parametrize(
    ("text", "inside"),
    [("<think>a</think>b", "a"), ("<think> </think>b", ""), ("b", ""), ("<think>endless", "endless")],
)
def test_thought(text, inside):
    assert thought(text) == inside
