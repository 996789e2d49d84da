import numpy as np
import pytest
import torch

from lightning_cispo.model.attention import layer_slopes
from lightning_cispo.model.exact import make_exact
from lightning_cispo.model.generation.engine import Engine
from lightning_cispo.model.generation.randomness import stream_key, uniform
from lightning_cispo.model.generation.requests import Request
from lightning_cispo.model.generation.sampling import sample
from tests.generation.small import EOS, policy, requests, run, tokens

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def network():
    return policy()


def test_a_response_does_not_depend_on_what_shares_its_batch(network):
    wide, _ = run(network, requests(), slots=64)
    narrow, _ = run(network, requests()[::-1], slots=7, prefill_tokens=9)
    alone, _ = run(network, requests()[3:4], slots=2)
    assert len(wide) == 12 * 5
    for key, completion in {**narrow, **alone}.items():
        assert completion.tokens_T.tolist() == wide[key].tokens_T.tolist()
    assert len({tuple(c.tokens_T) for (r, _), c in wide.items() if r == 0}) > 1, "samples of a group differ"


def test_log_probabilities_are_the_learners(network):
    """float32 on CPU: at most 1e-5 apart."""
    wide, _ = run(network, requests(), slots=64)
    prompts = {request.id: request.prompt_T for request in requests()}
    for (request_id, _), completion in wide.items():
        tokens = torch.from_numpy(np.concatenate([prompts[request_id], completion.tokens_T]))
        logprobs, _, _ = network.logprobs(tokens, torch.tensor([0, len(tokens)]))
        expected = logprobs[len(prompts[request_id]) :].detach().numpy()
        np.testing.assert_allclose(completion.logprobs_T, expected, atol=1e-5)


@pytest.mark.parametrize("exact", [False, True])
def test_a_network_learns_after_it_has_generated(exact):
    """Whatever an engine was the first to compute and keep, a learner may save for its backward pass."""
    layer_slopes.cache_clear()
    network = policy()
    if exact:
        make_exact(network)
    found, _ = run(network, requests(3), slots=8)
    assert found
    kept = [layer.self_attn.slopes(CPU) for layer in network.model.layers if hasattr(layer.self_attn, "slopes")]
    assert kept and not any(tensor.is_inference() for tensor in kept)
    assert not any(tensor.is_inference() for tensor in (*network.parameters(), *network.buffers()))
    tokens = torch.from_numpy(np.concatenate([request.prompt_T for request in requests(3)]))
    network.logprobs(tokens, torch.tensor([0, len(tokens)]))[0].sum().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())


def test_a_prompt_is_read_once_for_its_group(network):
    _, engine = run(network, requests(), slots=64)
    stats = engine.stats
    prompt_tokens = sum(len(request.prompt_T) for request in requests())
    assert stats.prefill_tokens == prompt_tokens
    assert stats.saved_prefill_tokens == 4 * prompt_tokens


def test_stops(network):
    found, _ = run(network, requests(max_tokens=6), slots=64)
    for completion in found.values():
        ended = completion.tokens_T[-1] == EOS
        assert EOS not in completion.tokens_T[:-1]
        assert completion.stop == ("eos" if ended else "length")
        assert ended or len(completion.tokens_T) == 6
    assert {c.stop for c in found.values()} == {"eos", "length"}


def test_repetition_stop_counts_consecutive_confident_tokens(network):
    """With the bar at 0, every token counts: the stop comes after exactly that many."""
    found, _ = run(network, requests(), slots=64, repetition_tokens=4, repetition_probability=1e-30)
    long = [c for c in found.values() if c.stop != "eos"]
    assert long and all(c.stop == "repetition" and len(c.tokens_T) == 4 for c in long)


def test_weights_replaced_between_steps_carry_their_version(network):
    engine = Engine(network, 8, EOS)
    engine.submit(Request(0, np.array([7, 8]), [1, 2], 12))
    done = engine.step() + engine.step()
    engine.load_weights(((n, p.detach().clone()) for n, p in network.named_parameters()), version=3)
    while engine.has_work:
        done += engine.step()
    versions = max((c.versions_T for c in done), key=len)
    assert versions[:3].tolist() == [0, 0, 0] and set(versions[3:].tolist()) == {3}


def test_greedy_is_the_argmax():
    logits = torch.randn(50, 30)
    tokens, logprobs, _ = sample(logits, torch.zeros(50), torch.rand(50, dtype=torch.float64))
    assert torch.equal(tokens, logits.argmax(-1))
    torch.testing.assert_close(logprobs, logits.log_softmax(-1).max(-1).values)


@pytest.mark.parametrize("temperature", [-1.0, 1e-40, 1e-7, float("nan")])
def test_temperatures_that_float32_cannot_divide_by_are_refused(network, temperature):
    with pytest.raises(ValueError, match="temperature of 0 .greedy. or at least 1e-06"):
        Engine(network, 2, EOS).submit(Request(0, np.array([7, 8]), [1], 4, temperature))


def test_the_least_temperature_is_as_good_as_greedy(network):
    found = [run(network, requests(temperature=t), slots=64)[0] for t in (0.0, 1e-6)]
    assert tokens(found[0]) == tokens(found[1])


def test_sampling_follows_the_tempered_distribution():
    logits = torch.tensor([0.0, 1.0, -1.0, 2.0])
    keys, positions = torch.full((40_000,), stream_key("a")), torch.arange(40_000)
    tokens, logprobs, _ = sample(logits.expand(40_000, 4), torch.full((40_000,), 0.7), uniform(keys, positions))
    expected = (logits / 0.7).softmax(0)
    shares = torch.bincount(tokens, minlength=4) / 40_000
    assert (shares - expected).abs().max() < 0.01
    torch.testing.assert_close(logprobs, expected.log()[tokens])


def test_streams_are_uniform_and_unrelated():
    keys = torch.tensor([stream_key("s", i) for i in range(4096)])
    first, second = uniform(keys, torch.zeros_like(keys)), uniform(keys, torch.ones_like(keys))
    for draws in (first, second):
        assert draws.min() >= 0 and draws.max() < 1
        assert abs(float(draws.mean()) - 0.5) < 0.02 and abs(float(draws.var()) - 1 / 12) < 0.005
    assert abs(float(torch.corrcoef(torch.stack([first, second]))[0, 1])) < 0.05


def test_states_that_leave_no_room_for_a_page_are_refused(monkeypatch):
    monkeypatch.setattr("lightning_cispo.model.generation.cache._free_bytes", lambda _: 1 << 20)
    with pytest.raises(ValueError, match="slots=500: their states take .* MiB, and 1 are free"):
        Engine(policy(), 500, EOS)
