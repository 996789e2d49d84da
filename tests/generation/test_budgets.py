"""What ends thinking and repetition, beside the lengths: late thinking, banned ends."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch

from lightning_cispo.model.generation.report import STOPS
from lightning_cispo.model.generation.requests import AGAIN, Interruption, Request
from lightning_cispo.model.generation.rows import Rows
from lightning_cispo.model.generation.sampler import Sampler
from lightning_cispo.model.generation.sequence import Sequence
from tests.generation.small import EOS, policy, requests, run

CLOSING = [40, 41, 42]


@pytest.fixture(scope="module")
def network():
    return policy()


def test_thinking_that_begins_anew_is_closed_again(network):
    """Closed at the first look, open at the second, closed from the third on."""
    looks: set[int] = set()

    def closed(response_T: np.ndarray) -> bool:
        looks.add(len(response_T))
        return len(response_T) != 5 + AGAIN

    options = dict(count=2, samples=2, min_tokens=3 * AGAIN, max_tokens=3 * AGAIN)
    found, _ = run(network, requests(interruption=Interruption(5, CLOSING, closed), **options), slots=8)
    free, _ = run(network, requests(**options), slots=8)
    assert looks == {5, 5 + AGAIN, 5 + 2 * AGAIN}
    for key, completion in found.items():
        start = 5 + AGAIN
        assert completion.tokens_T[:start].tolist() == free[key].tokens_T[:start].tolist()
        assert completion.tokens_T[start : start + 3].tolist() == CLOSING
        assert (~completion.chosen_T).nonzero()[0].tolist() == [start, start + 1, start + 2]


def test_every_closing_is_left_out_of_what_the_policy_chose(network):
    options = dict(count=2, samples=2, min_tokens=2 * AGAIN + 2, max_tokens=2 * AGAIN + 2)
    found, _ = run(network, requests(interruption=Interruption(2, CLOSING, lambda _: False), **options), slots=8)
    for completion in found.values():  # the third look, at the last token but one, leaves no room to close and answer
        assert (~completion.chosen_T).nonzero()[0].tolist() == [2, 3, 4, 2 + AGAIN, 3 + AGAIN, 4 + AGAIN]
        assert (completion.logprobs_T[~completion.chosen_T] == 0).all()


@pytest.mark.parametrize("cut", [False, True])
@pytest.mark.parametrize(("likely", "stops"), [(0.3, []), (0.995, [3])])
def test_a_banned_end_makes_no_token_certain(likely, stops, cut):
    """While eos can't be drawn, what is left is all but certain: that is no repetition unless it was so before."""
    request = Request(0, np.array([7]), [1], 50, min_tokens=40, top_k=3 if cut else 0)
    rows = Rows(1, EOS, torch.device("cpu"))
    rows.start(0, [request], [0])
    sequence, sampler = Sequence(request, 0, 0, -1, [], [(0, 0)], slot=0), Sampler(rows, 3, 0.99)
    features = Counter(sequence.features)
    logits = torch.full((1, 16), -20.0)
    logits[0, 9], logits[0, EOS] = float(np.log(likely)), float(np.log(1 - likely))
    ended = []
    for step in range(1, 6):
        report = sampler([sequence], slice(0, 1), step, logits.clone(), features)
        assert rows.token[0] == 9 and rows.logprobs[0, step - 1] > -1e-6, "what was drawn from leaves nothing else"
        if report.code_B.tolist() == [STOPS.index("repetition")]:
            ended.append(step)
    assert ended[:1] == stops
