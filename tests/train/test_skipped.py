"""Skipped and empty updates in a step: what is counted, kept and said, and when the run ends."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from lightning_cispo.configs.check import problems
from lightning_cispo.configs.schema import AlgorithmConfig, LearnerConfig, RunConfig
from lightning_cispo.model.folders import finished_checkpoints
from lightning_cispo.model.intact import NonFiniteWeights
from lightning_cispo.rl.packing import MicroBatch, pack
from lightning_cispo.rl.statistics import UpdateSums
from lightning_cispo.train.checkpoints import Checkpoints
from lightning_cispo.train.console import Console
from lightning_cispo.train.ended import RunEnded, finite_or_ended
from lightning_cispo.train.learner_group import LearnerGroup, Outcome, StepReport
from lightning_cispo.train.loop import learn
from lightning_cispo.train.run import Run
from lightning_cispo.train.skipped import SkippedUpdates
from lightning_cispo.train.state import RunState
from tests.rl.builders import group, samples


def skipped(count: int = 1) -> StepReport:
    batches = pack(samples([9, 30, 4]), 1, 10_000)[0]
    return StepReport(UpdateSums(tokens=7, loss=math.nan), math.inf, Outcome.skipped, batches * count)


def applied(loss: float = 0.5) -> StepReport:
    return StepReport(UpdateSums(tokens=10, loss=loss), 2.0)


def test_the_micro_batch_at_fault_is_kept(tmp_path):
    said: list[str] = []
    updates, report = SkippedUpdates(tmp_path, 3, said.append), skipped()
    updates.note("step-000007-update-2", report)
    path = tmp_path / "skipped/step-000007-update-2-0.npz"
    assert said == [
        "step-000007-update-2: skipped, the loss or a gradient is not finite (1 in a row); "
        f"its micro-batch is in {path}"
    ]
    read = MicroBatch(**np.load(path))
    for name in ("tokens_T", "cu_seqlens", "scales_T", "advantages_T", "anchor_T", "sampler_T", "samples"):
        np.testing.assert_array_equal(getattr(read, name), getattr(report.offenders[0], name))
    assert read.routing_TLK is None


def test_the_run_ends_after_so_many_in_a_row(tmp_path):
    updates = SkippedUpdates(tmp_path, 2, lambda _: None)
    for label, report in (("a", skipped()), ("b", applied()), ("c", skipped())):
        updates.note(label, report)
    updates.note("d", StepReport(UpdateSums(), 0.0, Outcome.empty))  # says nothing of the numbers
    with pytest.raises(RunEnded, match=r"2 updates in a row .*learner.max_skipped_updates=2.*skipped"):
        updates.note("e", skipped())


def test_few_files_are_kept(tmp_path):
    updates = SkippedUpdates(tmp_path, 1000, lambda _: None)
    for number in range(4):
        updates.note(f"step-{number}", skipped(count=9))
    kept = {path.name for path in (tmp_path / "skipped").iterdir()}
    assert len(kept) == 20 and {f"step-3-{index}.npz" for index in range(9)} <= kept


class Learners:
    def __init__(self, *reports: StepReport):
        self.reports, self.seen = list(reports), []

    def update(self, made, lr, algorithm):
        self.seen.append((len(made), lr))
        return self.reports.pop(0) if made else StepReport(UpdateSums(), 0.0, Outcome.empty)


def a_step(tmp_path: Path, learners: Learners, groups, updates: int = 2, **algorithm):
    config = RunConfig(algorithm=AlgorithmConfig(updates_per_step=updates, **algorithm), steps=10)
    config.optimizer.warmup_updates = 100
    run = SimpleNamespace(
        config=config,
        console=Console(progress=False),
        learner=learners,
        state=RunState(step=3),
        skipped=SkippedUpdates(tmp_path, 2, lambda _: None),
    )
    return learn(run, groups)  # type: ignore[arg-type]


def test_a_skipped_update_is_counted_and_adds_nothing_else(tmp_path):
    groups = [group([1.0, 0.0], prompt=i) for i in range(4)]
    metrics = a_step(tmp_path, Learners(skipped(), applied()), groups)
    assert metrics["policy/skipped_updates"] == 1 and metrics["policy/empty_updates"] == 0
    assert metrics["policy/loss"] == 0.5 and metrics["policy/grad_norm"] == 2.0
    learners = Learners(skipped(), applied())
    learners.reports = [skipped(), skipped()]
    with pytest.raises(RunEnded):
        a_step(tmp_path, learners, groups)


@pytest.mark.parametrize("dynamic", [False, True])
def test_a_step_whose_verdicts_all_failed(tmp_path, capsys, dynamic):
    groups = [group([None, None], prompt=i) for i in range(4)]
    learners = Learners()
    metrics = a_step(tmp_path, learners, groups, dynamic_sampling=dynamic)
    assert metrics["policy/empty_updates"] == 2 and metrics["policy/skipped_updates"] == 0
    assert not any(name in metrics for name in ("policy/loss", "policy/grad_norm"))
    out = capsys.readouterr().out
    if dynamic:
        assert metrics["groups/kept"] == 0 and not learners.seen
    else:
        assert out.count("\n") == 1 and "step 4: 2 of 2 updates were not made" in out


def test_the_schedule_goes_on_past_a_share_whose_verdicts_failed(tmp_path, capsys):
    """Of two updates the first has nothing to count; the second has the rate that it would have had."""
    groups = [group([None, None] if i % 2 == 0 else [1.0, 0.0], prompt=i) for i in range(4)]
    learners = Learners(applied())
    metrics = a_step(tmp_path, learners, groups, dynamic_sampling=False)
    assert [count for count, _ in learners.seen] == [0, 4]
    assert learners.seen[1][1] == pytest.approx(RunConfig().optimizer.lr * 8 / 100), "update 7 of a warm-up of 100"
    assert metrics["policy/empty_updates"] == 1 and metrics["policy/loss"] == 0.5
    assert "1 of 2 updates were not made" in capsys.readouterr().out


def test_a_checkpoint_that_is_refused_leaves_the_good_ones(tmp_path):
    """`keep=1`: a checkpoint of weights that are not finite must not push out the last one that is."""

    def save(folder: str, name: str) -> None:
        (Path(folder) / "model").mkdir()
        if run.state.step == 2:
            raise NonFiniteWeights("lm_head.weight: holds NaN or infinity")

    stream = SimpleNamespace(position=0, courses=SimpleNamespace(state=list))
    config = RunConfig(runs_dir=str(tmp_path), name="a")
    config.checkpoints.keep = 1
    run = Run(config)
    run.folder.mkdir()
    run.prompts = run.warm_start_prompts = stream  # type: ignore[assignment]
    run.learner = SimpleNamespace(expert_load_E=None, save=save)  # type: ignore[assignment]
    run.tracker = SimpleNamespace(log=lambda *_: None, sync=lambda: None)  # type: ignore[assignment]
    run.checkpoints = Checkpoints(run.folder, config.checkpoints, None)
    run.state.step = 1
    run.save()
    run.state.step = 2
    with pytest.raises(RunEnded, match="no longer finite: lm_head.weight: holds NaN or infinity; no checkpoint"):
        run.save()
    assert [path.name for path in finished_checkpoints(run.folder / "checkpoints")] == ["step-000001"]


@pytest.mark.parametrize("stored", [[0.5, math.nan], [math.inf], None])
def test_an_expert_load_that_is_not_finite_is_not_taken_over(monkeypatch, stored):
    """Of a checkpoint from a step without a counted token, as earlier versions took it."""
    learners = object.__new__(LearnerGroup)
    monkeypatch.setattr(learners, "_all", lambda *_: None, raising=False)
    learners.restore("a", [0.5, 0.5])
    assert learners.expert_load_E == [0.5, 0.5]
    learners.restore("a", stored)
    assert learners.expert_load_E is None


def test_other_errors_pass():
    with pytest.raises(ZeroDivisionError), finite_or_ended():
        raise ZeroDivisionError


def test_a_limit_below_one_is_refused():
    config = RunConfig(learner=LearnerConfig(max_skipped_updates=0))
    assert "learner.max_skipped_updates=0: must be at least 1" in list(problems(config))
