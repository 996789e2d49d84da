"""What a run says on the terminal, and without one."""

from __future__ import annotations

import io
import sys

import numpy as np
import pytest

from lightning_cispo.configs.schema import OptimizerConfig, Schedule
from lightning_cispo.train.console import Console, step_line, summary_line
from lightning_cispo.train.schedule import stretched
from tests.train.fake_run import evaluation, step_metrics


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_bars_are_for_terminals(monkeypatch: pytest.MonkeyPatch) -> None:
    def shown(stream: io.StringIO, progress: bool) -> str:
        monkeypatch.setattr(sys, "stderr", stream)
        with Console(progress).bar(10, "generate", unit="response") as bar:
            bar.update(4)
            bar.refresh()
        return stream.getvalue()

    assert "generate" in shown(Terminal(), True) and "4/10" in shown(Terminal(), True)
    assert shown(Terminal(), False) == "" and shown(io.StringIO(), True) == ""


def test_a_warm_start_without_bars_says_how_far_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    console = Console(progress=False)
    for step in range(1, 26):
        console.supervised(step, 25, 1 / step)
    lines = capsys.readouterr().out.splitlines()
    assert (
        len(lines) == 9 and lines[0] == "warm start  3/25  loss 0.333" and lines[-1] == "warm start 25/25  loss 0.040"
    )


def test_a_cosine_of_another_length_is_spoken_of() -> None:
    cosine = OptimizerConfig(schedule=Schedule.cosine)
    assert stretched(cosine, 80, 80) is None and stretched(OptimizerConfig(), 80, 120) is None
    said = stretched(cosine, 80, 120)
    assert said == "steps=120: the learning rate goes on along the cosine of 120 steps, which was one of 80"


def test_a_step_without_a_gradient_says_why(capsys: pytest.CaptureFixture[str]) -> None:
    for metrics in ({"groups/kept": 0, "reward/mean": 1.0}, {"groups/kept": 0}):
        Console(progress=False).step(3, 9, metrics)
    equal, unjudged = capsys.readouterr().out.splitlines()[1::2]
    assert "all judged responses are equal" in equal and "no response has a verdict" in unjudged


def test_lines_of_steps_stand_below_one_another(capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(0)
    metrics = [step_metrics(rng, step, 0.5) | {"policy/grad_norm": 0.3} for step in (7, 120)] + [{}]
    for step, values in zip((7, 120, 121), metrics):
        Console(progress=False).step(step, 250, values)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3 and len({len(line) for line in lines}) == 1
    for word in ("reward", "correct", "length", "p99", "entropy", "clip", "grad", "tok/s"):
        assert len({line.index(word) for line in lines}) == 1
    assert lines[0].startswith("step   7/250") and "grad 3.0e-01" in lines[0] and "–" in lines[2]
    assert f"{100 * metrics[0]['reward/correct']:.1f}%" in step_line(7, 250, metrics[0])


def test_a_step_without_a_gradient_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    Console(progress=False).step(3, 9, {"groups/kept": 3.0, "groups/dropped": 1.0})
    Console(progress=False).step(4, 9, {"groups/kept": 0.0, "groups/dropped": 4.0})
    some, none, said = capsys.readouterr().out.splitlines()
    assert "kept     3/4" in some and "kept     0/4" in none
    assert said.startswith("step 4: no group carried a gradient")


def test_an_evaluation_says_over_how_many_problems(capsys: pytest.CaptureFixture[str]) -> None:
    console = Console(progress=False)
    console.evaluation("held out after step 7", evaluation(0.5, problems=64))
    console.evaluation("a", evaluation(0.5) | {"eval/masked": 1, "eval/truncated": 0.25}, "judge: no route")
    console.evaluation("b", {"eval/problems": 0, "eval/masked": 12, "eval/thinking": 0.0}, "judge: no route")
    first, some, none = capsys.readouterr().out.splitlines()
    assert first.startswith("held out after step 7: pass@1 50.0% [") and first.endswith("n=64, thinking 80%")
    assert some.endswith("25% cut at the token limit, 1 response has no verdict (judge: no route)")
    assert none == "b: 12 responses have no verdict (judge: no route)"


def test_summary_names_both_evaluations_with_intervals() -> None:
    before = {"eval/pass@1": 0.352, "eval/pass@1_low": 0.311, "eval/pass@1_high": 0.394}
    after = {"eval/pass@1": 0.584, "eval/pass@1_low": 0.541, "eval/pass@1_high": 0.626}
    assert summary_line(before, after) == "pass@1 before 35.2% [31.1, 39.4] -> after 58.4% [54.1, 62.6]"
    assert summary_line(before, None) == "pass@1 before 35.2% [31.1, 39.4] -> after –"
