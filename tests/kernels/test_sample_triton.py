"""Drawing and recording in Triton against torch, in Triton's interpreter here, on the device in tests/gpu."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable

import pytest
import torch

from lightning_cispo.model.generation.randomness import uniform
from lightning_cispo.model.generation.report import STOPS
from lightning_cispo.model.generation.requests import Request
from lightning_cispo.model.generation.rows import Rows
from lightning_cispo.model.generation.sampler import RECORDED, Sampler
from lightning_cispo.model.generation.sampling import ban, sample
from tests.generation.small import tied
from tests.kernels.interpreted import interpreted


def check_draws(device: str) -> None:
    """The same tokens from the same keys: less and more than a chunk of the vocabulary, greedy rows, banned ids."""
    from lightning_cispo.kernels.decoding.sample_triton import Draw, sample_triton

    generator = torch.Generator().manual_seed(0)
    rows = 24
    for vocabulary in (70, 4096, 9000):
        logits = 4 * torch.randn(rows, vocabulary, generator=generator)
        temperature = 0.3 + torch.rand(rows, generator=generator)
        temperature[::4] = 0
        key = torch.randint(-(2**63), 2**63 - 1, (rows,), generator=generator)
        stops = torch.randint(-1, vocabulary, (rows, 3), generator=generator)
        stops[:, 0] = logits.argmax(-1)
        logits, temperature, key, stops = (x.to(device) for x in (logits, temperature, key, stops))
        count, least = torch.arange(rows, device=device), torch.full((rows,), 12, device=device)
        for bans in (False, True):
            allowed = ban(logits, stops, count < least) if bans else logits
            wanted, _, _ = sample(allowed, temperature, uniform(key, count))
            found, found_logprobs = sample_triton(logits, Draw(temperature, key, count, least), stops, bans)
            assert torch.equal(found, wanted)
            # torch's own log-probabilities in float32 are up to 4e-6 off, on some processors.
            exact = (allowed.double() / temperature.where(temperature > 0, 1.0)[:, None].double()).log_softmax(-1)
            exact_logprobs = exact.gather(1, found[:, None]).squeeze(1)
            torch.testing.assert_close(found_logprobs.double(), exact_logprobs, rtol=1e-6, atol=2e-6)


def check_greedy(device: str) -> None:
    """A temperature of 0 takes the first of the likeliest tokens that may be drawn, whatever the key."""
    from lightning_cispo.kernels.decoding.sample_triton import Draw, sample_triton

    generator = torch.Generator().manual_seed(0)
    for vocabulary in (70, 9000):
        logits, wanted = tied(6, vocabulary, generator)
        stops = logits.argmax(-1)[:, None].contiguous()
        logits, wanted, stops = (x.to(device) for x in (logits, wanted, stops))
        key, count = torch.arange(6, device=device), torch.full((6,), 3, device=device)
        draw = Draw(torch.zeros(6, device=device), key, count, torch.tensor([0, 9] * 3, device=device))
        found, logprobs = sample_triton(logits, draw, stops, bans=True)
        assert torch.equal(found[::2], wanted[::2, 0]) and torch.equal(found[1::2], wanted[1::2, 1])
        expected = ban(logits, stops, count < draw.least).log_softmax(-1).gather(1, found[:, None]).squeeze(1)
        torch.testing.assert_close(logprobs, expected, rtol=1e-5, atol=1e-5)


def check_records(device: str) -> None:
    """Steps of the whole sampler: rows, responses and stop codes are what torch makes of them."""
    from lightning_cispo.kernels.decoding.record_triton import record_triton
    from lightning_cispo.kernels.decoding.sample_triton import Draw, sample_triton

    def step(rows: Rows, logits: torch.Tensor) -> torch.Tensor:
        slots = slice(2, 8)
        draw = Draw(rows.temperature[slots], rows.key[slots], rows.count[slots], rows.min_tokens[slots])
        drawn = sample_triton(logits, draw, rows.stop_ids[slots], True)
        written = rows.stop_ids[slots], rows.longs, RECORDED, rows.tokens, rows.logprobs, slots.start
        return record_triton(*drawn, *written, LIKELY, 2)

    compare_with_torch(step, device)


def test_native_records():
    if shutil.which("cc") is None:
        pytest.skip("no C compiler")

    def step(rows: Rows, logits: torch.Tensor) -> torch.Tensor:
        slots, sampler = slice(2, 8), Sampler(rows, 2, 0.3)
        return sampler._recorded(slots, *sampler._drawn(slots, logits, bans=True))

    compare_with_torch(step, "cpu")


LIKELY = math.log(0.3)


def compare_with_torch(step: Callable[[Rows, torch.Tensor], torch.Tensor], device: str) -> None:
    """`step` draws for slots 2 to 8 and gives codes; a response repeats itself from 2 tokens above 0.3 on."""
    options = [
        dict(min_tokens=i % 3, stop_ids=(1, 2) if i % 2 else (), temperature=(0, 1.0, 0.3)[i % 3]) for i in range(6)
    ]
    wanted = [Request(i, [1, 2, 3], [i + 7], 5 + i, **options[i]) for i in range(6)]  # type: ignore[arg-type]
    plain, fused = (Rows(9, 5, torch.device(device)) for _ in range(2))
    for rows in (plain, fused):
        rows.start(2, wanted, [0] * 6)
    generator, seen = torch.Generator().manual_seed(0), set()
    for _ in range(9):
        logits = (3 * torch.randn(6, 12, generator=generator)).to(device)
        expected = torch_step(plain, logits)
        codes = step(fused, logits)
        assert expected.tolist() == codes.tolist()
        assert torch.equal(plain.longs, fused.longs) and torch.equal(plain.tokens, fused.tokens)
        torch.testing.assert_close(plain.logprobs, fused.logprobs, rtol=1e-6, atol=2e-6)
        seen |= set(codes.tolist())
    assert seen == set(range(len(STOPS)))


def torch_step(rows: Rows, logits: torch.Tensor) -> torch.Tensor:
    slots, sampler = slice(2, 8), Sampler(rows, 2, 0.3)
    count = rows.count[slots].clone()
    allowed = ban(logits, rows.stop_ids[slots], count < rows.min_tokens[slots])
    token, logprob, _ = sample(allowed, rows.temperature[slots], uniform(rows.key[slots], count))
    sampler._record(slots, count, token, logprob, logprob > sampler.repetition_logprob)
    return sampler._ended(slots, token)


@interpreted
@pytest.mark.parametrize("check", [check_draws, check_greedy, check_records])
def test_in_the_interpreter(check):
    check("cpu")
