"""What is drawn, under which distribution, and where a response ends."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lightning_cispo.model.generation.engine import Engine
from lightning_cispo.model.generation.randomness import stream_key, uniform
from lightning_cispo.model.generation.requests import Interruption, Request, Token
from lightning_cispo.model.generation.sampling import ban, sample
from tests.generation.small import EOS, drain, policy, requests, run, tokens


@pytest.fixture(scope="module")
def network():
    return policy()


def kept(logits: np.ndarray, temperature: float, top_p: float, top_k: int) -> np.ndarray:
    """The distribution by its definition: one token after the other, in float64."""
    p = np.exp(logits / temperature - (logits / temperature).max())
    order = sorted(range(len(p)), key=lambda i: (-p[i], i))[: top_k or len(p)]
    total, mass, chosen = p[order].sum(), 0.0, []
    for i in order:
        if chosen and mass / total >= top_p:
            break
        chosen.append(i)
        mass += p[i]
    out = np.zeros_like(p)
    out[chosen] = p[chosen] / p[chosen].sum()
    return out


@given(
    seed=st.integers(0, 1000),
    temperature=st.sampled_from([0.3, 1.0, 2.0]),
    top_p=st.sampled_from([1.0, 0.99, 0.6, 0.2, 1e-6]),
    top_k=st.sampled_from([0, 1, 3, 12, 100]),
)
def test_top_p_and_top_k_by_their_definition(seed, temperature, top_p, top_k):
    logits = np.random.default_rng(seed).normal(size=12) * 2
    rows = 400
    tokens_B, logprobs_B, logp_BV = sample(
        torch.tensor(logits, dtype=torch.float32).expand(rows, 12),
        torch.full((rows,), temperature),
        uniform(torch.full((rows,), stream_key(seed)), torch.arange(rows)),
        torch.full((rows,), top_p),
        torch.full((rows,), top_k),
    )
    expected = kept(logits, temperature, top_p, top_k)
    assert np.abs(logp_BV[0].double().exp().numpy() - expected).max() < 1e-5
    assert set(tokens_B.tolist()) <= set(np.flatnonzero(expected))
    torch.testing.assert_close(logprobs_B, logp_BV.gather(1, tokens_B[:, None]).squeeze(1))
    shares = torch.bincount(tokens_B, minlength=12).numpy() / rows
    assert np.abs(shares - expected).max() < 0.15


def test_rows_that_cut_nothing_are_not_touched_by_those_that_do():
    logits, temperature = torch.randn(64, 50), torch.ones(64)
    draws = torch.rand(64, dtype=torch.float64)
    alone = sample(logits, temperature, draws)
    top_p = torch.where(torch.arange(64) % 2 == 0, 1.0, 0.3)
    mixed = sample(logits, temperature, draws, top_p, torch.zeros(64, dtype=torch.int64))
    for one, other in zip(alone, mixed, strict=True):
        assert torch.equal(one[::2], other[::2])


def test_banned_ids_are_never_drawn():
    logits, ids = torch.zeros(3, 4), torch.tensor([[1, -1], [0, 3], [2, 9]])
    out = ban(logits, ids, torch.tensor([True, False, True]))
    assert out.isinf().tolist() == [[False, True, False, False], [False] * 4, [False, False, True, False]]


def test_requests_of_all_kinds_share_a_batch(network):
    """Each comes out as it does alone."""
    kinds = [
        dict(),
        dict(temperature=0.0),
        dict(top_p=0.5),
        dict(top_k=2),
        dict(temperature=0.5, top_p=0.9, top_k=5),
        dict(min_tokens=20),
        dict(stop_ids=(7, 8, 9, 11)),
        dict(interruption=Interruption(6, [20, 21, 22], lambda _: False)),
    ]
    wanted = [
        Request(i, np.array([6, 7 + i % 3]), [stream_key(i, s) for s in range(4)], 20, **kind)
        for i, kind in enumerate(kinds * 2)
    ]
    together, _ = run(network, wanted, slots=64)
    tight, engine = run(network, wanted, slots=64, kv_tokens=320)
    assert engine.stats.preemptions > 0
    assert tokens(tight) == tokens(together)
    for request in wanted:
        alone, _ = run(network, [request], slots=4)
        assert tokens(alone) == {key: x for key, x in tokens(together).items() if key[0] == request.id}
    assert all(len(c.tokens_T) == 20 for (r, _), c in together.items() if r % 8 == 5)


def test_log_probabilities_are_those_drawn_from(network):
    """Temperature alone: the learner's. Cut: larger by what the cut took away."""
    plain, _ = run(network, requests(temperature=0.7), slots=64)
    for request in requests(temperature=0.7):
        for sample_index in range(5):
            found = plain[request.id, sample_index]
            row = torch.from_numpy(np.concatenate([request.prompt_T, found.tokens_T]))
            logprobs, _, _ = network.logprobs(row, torch.tensor([0, len(row)]), temperature=0.7)
            expected = logprobs[len(request.prompt_T) :].detach().numpy()
            np.testing.assert_allclose(found.logprobs_T, expected, atol=1e-5)
    single, _ = run(network, requests(top_k=1), slots=64)
    assert all((found.logprobs_T == 0).all() for found in single.values()), "one token is left: it is certain"


def test_stop_ids_and_reasons(network):
    found, _ = run(network, requests(count=6, stop_ids=(30, 31, 32, 33), max_tokens=12), slots=64)
    reasons = set()
    for completion in found.values():
        last, rest = completion.tokens_T[-1], completion.tokens_T[:-1]
        assert not {EOS, 30, 31, 32, 33} & set(rest.tolist())
        wanted = "eos" if last == EOS else "stop" if last in (30, 31, 32, 33) else "length"
        assert completion.stop == wanted and completion.chosen_T.all()
        reasons.add(wanted)
    assert reasons == {"eos", "stop", "length"}


def test_min_tokens_hold_off_eos_and_stops(network):
    found, _ = run(network, requests(min_tokens=9, stop_ids=(30, 31)), slots=64)
    assert all(len(completion.tokens_T) >= 9 for completion in found.values())
    assert any(completion.stop in ("eos", "stop") for completion in found.values())


def test_an_observer_sees_every_token(network):
    seen: dict[tuple[int, int], list[Token]] = {}

    def watch(number: int):
        return lambda token: seen.setdefault((number, token.sample), []).append(token)

    wanted = [Request(i, np.array([6, 9]), [1, 2], 15, observer=watch(i), top_logprobs=3 * i) for i in range(3)]
    found, _ = run(network, wanted, slots=8)
    unwatched, _ = run(network, [Request(i, np.array([6, 9]), [1, 2], 15) for i in range(3)], slots=8)
    for key, completion in found.items():
        assert [token.id for token in seen[key]] == completion.tokens_T.tolist()
        assert [token.logprob for token in seen[key]] == pytest.approx(completion.logprobs_T.tolist())
        assert {len(token.top) for token in seen[key]} == {3 * key[0]}
        assert completion.tokens_T.tolist() == unwatched[key].tokens_T.tolist()
    for token in (token for key, row in seen.items() if key[0] == 2 for token in row):
        assert token.top == sorted(token.top, key=lambda pair: -pair[1])


def test_thinking_is_interrupted_once_and_goes_on_from_the_closing(network):
    closing = [40, 41, 42]

    def closed(response_T: np.ndarray) -> bool:
        assert len(response_T) == 5
        return bool((response_T == 33).any())

    options = dict(min_tokens=24, max_tokens=24)
    free, _ = run(network, requests(**options), slots=64)
    found, _ = run(network, requests(interruption=Interruption(5, closing, closed), **options), slots=64)
    cut = 0
    for key, completion in found.items():
        before = free[key].tokens_T[:5].tolist()
        assert completion.tokens_T[:5].tolist() == before
        if 33 in before:
            assert completion.tokens_T.tolist() == free[key].tokens_T.tolist() and completion.chosen_T.all()
            continue
        cut += 1
        assert completion.tokens_T[5:8].tolist() == closing
        assert completion.chosen_T.tolist() == [True] * 5 + [False] * 3 + [True] * 16
        assert (completion.logprobs_T[5:8] == 0).all()
        # What follows is drawn with the closing read: the learner's log-probabilities of it agree.
        request = requests()[key[0]]
        row = torch.from_numpy(np.concatenate([request.prompt_T, completion.tokens_T[:20]]))
        logprobs, _, _ = network.logprobs(row, torch.tensor([0, len(row)]))
        mine = logprobs[len(request.prompt_T) + 8 :].detach().numpy()
        allowed = 1 - np.exp(_eos_logprobs(network, row)[len(request.prompt_T) + 7 : -1])
        np.testing.assert_allclose(completion.logprobs_T[8:20], mine - np.log(allowed), atol=1e-4)
    assert 0 < cut < len(found)


def _eos_logprobs(network, row: torch.Tensor) -> np.ndarray:
    """Log-probability of eos after each token: min_tokens takes it out of the distribution."""
    with torch.no_grad():
        hidden = network(row, torch.tensor([0, len(row)])).hidden_TX
        return network.lm_head(hidden).log_softmax(-1)[:, EOS].numpy()


def test_an_interrupted_response_that_then_ends_says_so(network):
    found, _ = run(network, requests(interruption=Interruption(3, [40], lambda _: False)), slots=64)
    stops = {c.stop for c in found.values() if not c.chosen_T.all()}
    assert "interrupted" in stops and stops <= {"interrupted", "length"}
    assert all(c.stop == "eos" for c in found.values() if len(c.tokens_T) <= 3)


def test_interruptions_that_leave_no_room_are_refused(network):
    with pytest.raises(ValueError, match="leave nothing"):
        Engine(network, 2, EOS).submit(
            Request(0, np.array([1]), [0], 8, interruption=Interruption(5, [1, 2, 3], lambda _: False))
        )


def test_repetition_does_not_count_what_an_interruption_wrote(network):
    """With the bar at 0 every chosen token counts: five, then the closing, then five again."""
    wanted = requests(count=4, min_tokens=20, interruption=Interruption(3, [40, 41], lambda _: False))
    found, _ = run(network, wanted, slots=64, repetition_tokens=5, repetition_probability=1e-30)
    assert {len(c.tokens_T) for c in found.values()} == {10}
    assert {c.stop for c in found.values()} == {"repetition"}


def test_new_weights_in_flight_keep_states_or_recompute_them():
    """Recomputed, what follows is what the new weights say of the whole; kept, it need not be."""
    for recompute, kv_tokens in ((True, None), (True, 160), (False, None)):
        network = policy()
        other = policy()
        with torch.no_grad():
            for parameter in other.parameters():
                parameter.mul_(1.1)
        engine = Engine(network, 16, EOS, kv_tokens=kv_tokens, prefill_tokens=64)
        wanted = [Request(i, np.arange(6, 20 + i), [i], 60, min_tokens=60) for i in range(4)]
        wanted.append(Request(9, np.full(300 if kv_tokens is None else 120, 9), [5], 4))
        for request in wanted[:4]:
            engine.submit(request)
        for _ in range(30):
            engine.step()
        engine.submit(wanted[4])
        engine.step()
        assert (engine.stats.preemptions > 0) == (kv_tokens is not None)
        engine.load_weights(((n, p.detach().clone()) for n, p in other.named_parameters()), 7, recompute)
        found = drain(engine)
        for request in wanted:
            completion = found[request.id, 0]
            changed = int((completion.versions_T == 0).sum())
            assert set(completion.versions_T[changed:].tolist()) == {7}
            assert (changed == 0) == (request.id == 9), "a prompt half read is read again"
            row = torch.from_numpy(np.concatenate([request.prompt_T, completion.tokens_T]))
            with torch.no_grad():
                logp = other.lm_head(other(row, torch.tensor([0, len(row)])).hidden_TX).log_softmax(-1)
                if request.min_tokens:
                    logp[:, EOS] = float("-inf")
                    logp = logp.log_softmax(-1)
            mine = logp[:-1].gather(1, row[1:, None]).squeeze(1)[len(request.prompt_T) - 1 :].numpy()
            error = np.abs(mine - completion.logprobs_T)[changed:].max()
            assert error < 1e-4 if recompute or request.id == 9 else error > 1e-4
