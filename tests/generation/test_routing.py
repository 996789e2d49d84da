"""Expert choices recorded while sampling: one row a token, whatever happens to it, and what a plain pass chooses."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lightning_cispo.model.generation.engine import Engine
from lightning_cispo.model.generation.randomness import stream_key
from lightning_cispo.model.generation.requests import Interruption, Request
from lightning_cispo.model.network import MiniMax
from lightning_cispo.model.routing import Routing, changed_choices, routing_dtype, unrecorded
from tests.generation.small import EOS, drain, policy, run, tokens


@pytest.fixture(scope="module")
def network():
    return policy()


def mixed(**options) -> list[Request]:
    rng = np.random.default_rng(1)
    lengths = [3, 70, 16, 200, 32, 1, 130, 17]
    return [
        Request(i, rng.integers(6, 64, n), [stream_key(i, s) for s in range(1 + i % 4)], 24, **options)
        for i, n in enumerate(lengths)
    ]


def own_routing(network: MiniMax, tokens_T: np.ndarray) -> np.ndarray:
    """What a plain pass over a whole sequence chooses [T, L, K]."""
    routing = Routing()
    with torch.no_grad():
        network(torch.from_numpy(tokens_T).long(), torch.tensor([0, len(tokens_T)]), routing=routing)
    return routing.made_TLK(torch.uint8).numpy()


@pytest.mark.parametrize(
    "options",
    [
        dict(slots=64),
        dict(slots=5, kv_tokens=224, prefill_tokens=64),
        dict(slots=20, kv_tokens=300, prefill_tokens=100),
    ],
)
@pytest.mark.parametrize("interrupted", [False, True])
def test_the_record_is_what_a_pass_over_the_whole_chooses(network, options, interrupted):
    """Groups on shared pages, chunks of prompts, preemption and interruptions lose and double nothing."""
    cut = Interruption(6, [9, 9, 8], lambda ids: False) if interrupted else None
    wanted = mixed(interruption=cut, min_tokens=16)
    found, engine = run(network, wanted, record_routing=True, **options)
    assert tokens(found) == tokens(run(network, wanted, **options)[0]), "recording changes nothing"
    if "kv_tokens" in options:
        assert engine.stats.preemptions
    prompts = {request.id: request.prompt_T for request in wanted}
    for (index, _), completion in found.items():
        whole = np.concatenate([prompts[index], completion.tokens_T])[:-1]
        assert completion.routing_TLK is not None and completion.routing_TLK.dtype == np.uint8
        np.testing.assert_array_equal(completion.routing_TLK, own_routing(network, whole))


def test_nothing_is_recorded_unless_asked(network):
    found, engine = run(network, mixed()[:2], slots=4)
    assert all(completion.routing_TLK is None for completion in found.values())
    assert engine.reserved["routing_bytes"] == 0


def test_the_record_is_part_of_what_is_reserved(network):
    engine = Engine(network, 4, EOS, kv_tokens=320, record_routing=True)
    config = network.config
    assert engine.reserved["routing_bytes"] == 336 * config.num_hidden_layers * config.num_experts_per_tok


@pytest.mark.parametrize("recompute", [False, True])
def test_new_weights_leave_the_record_of_older_tokens(recompute):
    """Tokens before the update were routed by the old weights; the record says so also where states are recomputed."""
    network = policy()
    before = {name: parameter.detach().clone() for name, parameter in network.named_parameters()}
    after = {n: p.flip(0) if "gate.weight" in n else p for n, p in before.items()}  # the experts in another order
    engine = Engine(network, 8, EOS, record_routing=True)
    prompt = np.arange(6, 46)
    engine.submit(Request(0, prompt, list(range(4)), 12, min_tokens=12))
    for _ in range(4):
        engine.step()
    engine.load_weights(after.items(), version=1, recompute=recompute)
    for completion in drain(engine).values():
        old = len(prompt) + int((completion.versions_T == 0).sum()) - 1
        whole = np.concatenate([prompt, completion.tokens_T])[:-1]
        assert 40 < old < len(whole) == len(completion.routing_TLK)
        now = own_routing(network, whole)[:, 0]  # later layers see what the first one's experts did
        for parameters, rows in ((before, slice(0, old)), (after, slice(old, None))):
            network.load_state_dict(parameters)
            np.testing.assert_array_equal(completion.routing_TLK[rows, 0], own_routing(network, whole)[rows, 0])
        assert (completion.routing_TLK[:old, 0] != now[:old]).any(), "the weights differ in their choices"
        network.load_state_dict(after)


def test_replay_keeps_the_mask_and_the_routers_gradient(network):
    """Weights are the learner's softmax over the given experts, renormalised; tokens without a record go their way."""
    torch.manual_seed(0)
    moe = policy().model.layers[1].mlp
    x = torch.randn(30, 32, requires_grad=True)
    own_y, logits = moe(x)
    own = logits.topk(2).indices
    kept = torch.randint(0, 8, (30, 1, 1)).repeat(1, 4, 2)
    kept[..., 1] = (kept[..., 1] + 3) % 8
    kept[20:] = unrecorded(torch.uint8)
    y, _ = moe(x, Routing(kept.to(torch.uint8)))
    expert = kept[:, 1].clone()
    expert[20:] = own[20:]
    weight = logits.softmax(-1).gather(1, expert)
    expected = moe.experts(x, expert, weight / weight.sum(-1, keepdim=True))
    torch.testing.assert_close(y, expected)
    torch.testing.assert_close(y[20:], own_y[20:])
    assert (y[:20] - own_y[:20]).abs().max() > 1e-3
    mine, theirs = (torch.autograd.grad(out.square().sum(), moe.gate.weight)[0] for out in (y, expected))
    torch.testing.assert_close(mine, theirs)
    assert mine.abs().max() > 0


def test_changed_choices_know_no_order():
    kept = torch.tensor([[1, 2], [3, 4], [255, 255]], dtype=torch.uint8)
    recorded, changed = changed_choices(torch.tensor([[2, 1], [3, 5], [0, 1]]), kept)
    assert (int(recorded), int(changed)) == (4, 1)


def test_more_experts_than_a_byte_holds():
    assert routing_dtype(255) is torch.uint8 and unrecorded(torch.uint8) == 255
    assert routing_dtype(256) is torch.int16
