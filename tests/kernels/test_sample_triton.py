"""Drawing and recording in Triton against torch, in Triton's interpreter here, on the device in tests/gpu."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys

import pytest
import torch

from model.generation.randomness import uniform
from model.generation.report import STOPS
from model.generation.requests import Request
from model.generation.rows import Rows
from model.generation.sampler import Sampler
from model.generation.sampling import ban, sample


def check_draws(device: str) -> None:
    """The same tokens from the same keys: less and more than a chunk of the vocabulary, greedy rows, banned ids."""
    from kernels.decoding.sample_triton import Draw, sample_triton

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


def check_records(device: str) -> None:
    """Steps of the whole sampler: rows, responses and stop codes are what torch makes of them."""
    options = [
        dict(min_tokens=i % 3, stop_ids=(1, 2) if i % 2 else (), temperature=(0, 1.0, 0.3)[i % 3]) for i in range(6)
    ]
    wanted = [Request(i, [1, 2, 3], [i + 7], 5 + i, **options[i]) for i in range(6)]  # type: ignore[arg-type]
    plain, fused = (Rows(9, 5, torch.device(device)) for _ in range(2))
    for rows in (plain, fused):
        rows.start(2, wanted, [0] * 6)
    samplers, generator = (Sampler(plain, 2, 0.3), Sampler(fused, 2, 0.3)), torch.Generator().manual_seed(0)
    seen = set()
    for _ in range(9):
        logits = (3 * torch.randn(6, 12, generator=generator)).to(device)
        report = samplers[0]([None] * 6, slice(2, 8), 0, logits, dict(interruption=0, min_tokens=1, cut=0, watched=0))  # type: ignore[list-item]
        codes = samplers[1]._fused(slice(2, 8), logits, True)
        if report.there:
            report.there.synchronize()  # the codes are on their way to the host
        assert report.code_B.tolist() == codes.tolist()
        assert torch.equal(plain.longs, fused.longs) and torch.equal(plain.tokens, fused.tokens)
        torch.testing.assert_close(plain.logprobs, fused.logprobs, rtol=1e-6, atol=2e-6)
        seen |= set(codes.tolist())
    assert seen == set(range(len(STOPS)))


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")
@pytest.mark.parametrize("check", ["check_draws", "check_records"])
def test_in_the_interpreter(check):
    script = f"from tests.kernels.test_sample_triton import *; {check}('cpu')"
    environment = os.environ | {"TRITON_INTERPRET": "1"}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
