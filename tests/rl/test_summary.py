"""What ended responses, as metrics."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from lightning_cispo.rl.summary import evaluation_metrics, response_metrics
from lightning_cispo.train.metrics import describe
from tests.rl.builders import group


def test_shares_of_what_ended_responses():
    made = group([1.0, 0.0, 0.0, 0.0, 0.0])
    stops = ["eos", "repetition", "repetition", "length", "interrupted"]
    made.trajectories[:] = [replace(t, stop=stop) for t, stop in zip(made.trajectories, stops, strict=True)]
    made.trajectories[4] = replace(made.trajectories[4], loss_mask_T=np.array([True, False, True]))
    found = response_metrics([made])
    names = "response/repetition", "response/truncated", "response/interrupted"
    assert [found[name] for name in names] == [0.4, 0.2, 0.2]
    held_out = evaluation_metrics([made])
    assert [held_out[name] for name in ("eval/repetition", "eval/truncated")] == [0.4, 0.2]
    for name in (*found, *held_out):
        describe(name)
