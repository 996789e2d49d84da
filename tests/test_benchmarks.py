"""The step benchmark measures whole steps of the size it names."""

from __future__ import annotations

from tests.benchmarks.own_step import Size
from tests.benchmarks.rl_step import main


def test_a_timed_step_samples_and_trains_every_token(capsys):
    ours, peer = main(["--steps", "2", "--warm-up", "0", "--threads", "1"], Size(prompts=2, group_size=3, tokens=5))
    assert peer == [] and len(ours) == 2
    for step in ours:
        assert step.generated == step.trained == 2 * 3 * 5
        assert step.generate_s > 0 and step.update_s > 0
    assert "2 prompts x 3 responses x 5 tokens" in capsys.readouterr().out
