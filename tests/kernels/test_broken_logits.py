"""Logits that are not finite: choices stay inside their tables, and the numbers made of them are NaN, not plausible."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lightning_cispo.kernels.decoding.rows_triton import Stream
from lightning_cispo.kernels.experts.moe import moe_experts, top_experts
from lightning_cispo.model.generation.sampling import sample
from tests.kernels.interpreted import interpreted

NAN, INF = float("nan"), float("inf")
SHAPES = [(5, 2), (5, 5), (16, 2), (32, 3), (33, 8)]  # experts, chosen; with padding to a power of two and without


def broken_logits(experts: int) -> Tensor:
    """Every other row is in order; the others hold NaN or infinity in places that differ."""
    generator = torch.Generator().manual_seed(experts)
    logits = torch.randn(16, experts, generator=generator)
    for row, change in enumerate(
        [(slice(None), NAN), (slice(1), NAN), (slice(-1, None), NAN), (slice(None), -INF), (slice(2, 4), INF)]
    ):
        logits[2 * row + 1, change[0]] = change[1]
    logits[11, ::2], logits[11, 1::2] = NAN, -INF
    logits[13, :-1], logits[13, -1] = -INF, NAN
    return logits


BAD = [1, 3, 5, 7, 9, 11, 13]
GOOD = [row for row in range(16) if row not in BAD]


def check_choices(chosen: Tensor, shares: Tensor, experts: int, rows: list[int] = BAD) -> None:
    assert ((chosen >= 0) & (chosen < experts)).all()
    ordered = chosen.sort(-1).values
    assert (ordered[:, 1:] > ordered[:, :-1]).all(), "an expert was chosen twice"
    bad = torch.zeros(len(shares), dtype=torch.bool, device=shares.device)
    bad[rows] = True
    assert shares[bad].isnan().all() and shares[~bad].isfinite().all()


def check_routers(device: str) -> None:
    """The routers over whole rows of logits."""
    from lightning_cispo.kernels.exact.rows_triton import route_triton
    from lightning_cispo.kernels.experts.choice_triton import ChooseExperts

    for experts, top_k in SHAPES:
        logits = broken_logits(experts).to(device)
        for route in (top_experts, ChooseExperts.apply, lambda x, k: route_triton(x, k, None)):
            shares, chosen = route(logits, top_k)
            check_choices(chosen, shares, experts)
            alone = route(logits[GOOD], top_k)
            assert torch.equal(alone[1], chosen[GOOD]) and torch.equal(alone[0], shares[GOOD])


def check_routed_rows(device: str, dtype: torch.dtype) -> None:
    """Routing and experts of a decoding batch: a row that is in order does not feel the others."""
    from lightning_cispo.kernels.experts.prefill_triton import routed_experts_triton

    generator = torch.Generator().manual_seed(0)
    for experts, top_k in SHAPES:
        x = torch.randn(16, 64, generator=generator).to(device, dtype)
        weights = [torch.randn(experts, *n, generator=generator).to(device, dtype) / 8 for n in ((96, 64), (64, 48))]
        logits = broken_logits(experts).to(device)
        out = routed_experts_triton(x, logits, top_k, *weights)
        assert out[BAD].isnan().all() and out[GOOD].isfinite().all()
        shares, chosen = logits[GOOD].softmax(-1).topk(top_k, -1)
        expected = moe_experts(x[GOOD], chosen, shares / shares.sum(-1, keepdim=True), *weights)
        torch.testing.assert_close(out[GOOD], expected, rtol=2e-2, atol=2e-2 if dtype is torch.bfloat16 else 1e-5)


def guarded(*shape: int, device: str) -> tuple[Tensor, Tensor]:
    """Zeros of a shape, and what lies behind them in memory."""
    size = int(torch.tensor(shape).prod())
    whole = torch.zeros(size + 4096, dtype=torch.int32, device=device)
    whole[size:] = -7
    return whole[:size].view(shape), whole[size:]


def check_rosters(device: str, exact: bool) -> None:
    """The routers of a decoding step write nothing behind their rosters, whatever the router's weights hold."""
    from lightning_cispo.kernels.decoding.experts_triton import Roster
    from lightning_cispo.kernels.decoding.route_triton import decode_route
    from lightning_cispo.kernels.exact.step_triton import route

    rows, hidden = 6, 32
    generator = torch.Generator().manual_seed(0)
    for experts, top_k in SHAPES:
        for broken in (slice(None), slice(1), slice(-1, None)):
            router = torch.randn(experts, hidden, generator=generator)
            router[broken] = NAN
            x = torch.randn(rows, hidden, generator=generator).to(device)
            x[4] = NAN
            position = torch.tensor([3, 1, 0, 9, 5, 2], device=device)
            (count, behind), (list_, beyond) = guarded(experts, device=device), guarded(experts, rows, device=device)
            roster = Roster(count, list_)
            choice = torch.zeros(rows, top_k, dtype=torch.int32, device=device)
            share = torch.zeros(rows, top_k, device=device)
            if exact:
                route(x, router.to(device), position, choice, share, roster, False)
            else:
                stream = Stream(x.clone(), torch.empty_like(x), torch.ones(hidden, device=device), 1e-5, True)
                decode_route(
                    x[None].contiguous(), None, hidden, 1e-5, position, router.to(device), stream, choice, share, roster
                )
            runs = position > 0
            check_choices(choice[runs], share[runs], experts, list(range(int(runs.sum()))))
            assert (choice[~runs] == -1).all()
            assert (behind == -7).all() and (beyond == -7).all()
            assert count.sum() == runs.sum() * top_k and count.max() <= rows


def check_draws(device: str) -> None:
    """Tokens drawn from broken logits are tokens of the vocabulary; their log-probabilities are NaN."""
    from lightning_cispo.kernels.decoding.sample_triton import Draw, sample_triton
    from lightning_cispo.kernels.exact.score_triton import score_triton

    for vocabulary in (50, 4096, 5000):
        logits = torch.randn(6, vocabulary, generator=torch.Generator().manual_seed(0)).to(device)
        logits[0], logits[2, -1], logits[4, 0] = NAN, NAN, NAN
        zeros = torch.zeros(6, dtype=torch.int64, device=device)
        stops = zeros[:, None].contiguous()
        for heat in (0.0, 1.0):
            temperature, key = torch.full((6,), heat, device=device), torch.arange(6, device=device)
            uniform = torch.rand(6, dtype=torch.float64, device=device)
            drawn = sample_triton(logits, Draw(temperature, key, zeros, zeros), stops, False)
            scored = score_triton(logits, torch.ones_like(temperature), drawn[0])[0]
            for token, logprob, *_ in (drawn, (drawn[0], scored), sample(logits, temperature, uniform)):
                assert ((token >= 0) & (token < vocabulary)).all()
                assert logprob[[0, 2, 4]].isnan().all() and logprob[[1, 3, 5]].isfinite().all()


@interpreted
def test_routers_in_the_interpreter():
    check_routers("cpu")


@interpreted
def test_routed_rows_in_the_interpreter():
    check_routed_rows("cpu", torch.float32)


@interpreted
@pytest.mark.parametrize("exact", [False, True])
def test_rosters_in_the_interpreter(exact):
    check_rosters("cpu", exact)


@interpreted
def test_draws_in_the_interpreter():
    check_draws("cpu")


@pytest.mark.parametrize(("experts", "top_k"), SHAPES)
def test_native_and_torch_routers(experts, top_k):
    for dtype in (torch.float32, torch.float64):  # in C, and in torch
        shares, chosen = top_experts(broken_logits(experts).to(dtype), top_k)
        check_choices(chosen, shares, experts)


@pytest.mark.parametrize("heat", [0.0, 1.0])
def test_native_draws(heat):
    from lightning_cispo.kernels.native.library import library
    from lightning_cispo.kernels.native.sample import sample_native

    if library() is None:
        pytest.skip("no C compiler")
    logits = torch.randn(4, 70, generator=torch.Generator().manual_seed(0))
    logits[0], logits[2, 5] = NAN, NAN
    token, logprob = sample_native(logits, torch.full((4,), heat), torch.arange(4), torch.arange(4))
    assert ((token >= 0) & (token < 70)).all()
    assert logprob[[0, 2]].isnan().all() and logprob[[1, 3]].isfinite().all()
