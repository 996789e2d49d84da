"""Tokens drawn natively against those of the torch path, with the same keys."""

import math
import shutil

import pytest
import torch

from lightning_cispo.kernels.native.sample import sample_native
from lightning_cispo.model.generation.randomness import uniform
from lightning_cispo.model.generation.sampling import sample
from tests.generation.small import tied

pytestmark = pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")


@pytest.mark.parametrize("rows, vocabulary", [(1, 1), (3, 63), (200, 64), (300, 515), (5, 30000)])
@pytest.mark.parametrize("threads", [1, 3])
def test_tokens_are_torchs(rows, vocabulary, threads):
    torch.manual_seed(0)
    logits = 6 * torch.randn(rows, vocabulary)
    logits[:, 1::5] = float("-inf")  # banned
    temperature = torch.rand(rows) + 0.3
    temperature[::4] = 0
    keys, positions = torch.randint(-(1 << 63), (1 << 63) - 1, (rows,)), torch.randint(0, 1 << 40, (rows,))
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    tokens, logprobs = sample_native(logits, temperature, keys, positions)
    torch.set_num_threads(before)
    expected, _, _ = sample(logits, temperature, uniform(keys, positions))
    assert torch.equal(tokens, expected)  # but for a uniform within 1e-7 of a border, which none of these is
    # torch's own log-probabilities in float32 are up to 4e-6 off, on some processors.
    exact = (logits.double() / temperature.where(temperature > 0, 1.0)[:, None].double()).log_softmax(-1)
    exact_logprobs = exact.gather(1, tokens[:, None]).squeeze(1)
    torch.testing.assert_close(logprobs.double(), exact_logprobs, rtol=1e-6, atol=1e-6)


def test_what_has_no_probability_is_never_drawn():
    logits = torch.full((4000, 130), -1e4)
    logits[:, 64] = 0.0
    logits[:, 100] = 0.5
    keys = torch.arange(4000)
    tokens, logprobs = sample_native(logits, torch.ones(4000), keys, torch.zeros_like(keys))
    assert set(tokens.tolist()) == {64, 100}
    share = float((tokens == 100).double().mean())
    assert share == pytest.approx(1 / (1 + 2.718281828**-0.5), abs=0.03)
    torch.testing.assert_close(logprobs, logits.log_softmax(-1).gather(1, tokens[:, None]).squeeze(1))


@pytest.mark.parametrize("vocabulary", [70, 9000])
def test_greedy_takes_the_first_of_the_likeliest(vocabulary):
    logits, wanted = tied(6, vocabulary, torch.Generator().manual_seed(0))
    greedy, keys = torch.zeros(6), torch.arange(6)
    halved = sample(logits, greedy, uniform(keys, keys), torch.full((6,), 0.5), torch.full((6,), vocabulary))
    for (tokens, logprobs, *_), kept in (
        (sample_native(logits, greedy, keys, keys), 3),
        (sample(logits, greedy, uniform(keys, keys)), 3),
        (halved, 2),  # top-p of 0.5 leaves two of the three
    ):
        assert torch.equal(tokens, wanted[:, 0])
        torch.testing.assert_close(logprobs, torch.full((6,), -math.log(kept)))
