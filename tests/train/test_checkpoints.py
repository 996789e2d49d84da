"""What a run saves and when, what stays, and that a resumed run is the one that was never stopped."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lightning_cispo.configs.schema import CheckpointConfig
from lightning_cispo.model.aside import clear_asides, write_text_aside
from lightning_cispo.model.folders import finished_checkpoints
from lightning_cispo.train import checkpoints as module
from lightning_cispo.train.checkpoints import Checkpoints
from lightning_cispo.train.loop import train
from lightning_cispo.train.metrics import STEP_PHASES
from lightning_cispo.train.state import RunState, load_state
from lightning_cispo.train.tracking import read_lines, read_metrics
from tests.train.small_run import SmallRun, config


class Killed(BaseException):
    """Nothing after it runs, as after kill -9."""


def names(folder: Path) -> list[str]:
    return [path.name for path in finished_checkpoints(folder / "checkpoints")]


def story(folder: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """A run's lines and traces without what the clock says."""
    untimed = [
        {name: value for name, value in line.items() if not name.startswith(("time/", "throughput/", "memory/"))}
        for line in read_metrics(folder)
        if "time/checkpoint_s" not in line
    ]
    return untimed, [trace for path in sorted(folder.glob("traces/*.jsonl")) for trace in read_lines(path)]


def whole(folder: Path, *overrides: str) -> Path:
    with SmallRun(config(folder, "name=whole", *overrides)) as run:
        train(run)
    return run.folder


def resumed(folder: Path, *overrides: str) -> Path:
    base = config(folder.parent, *overrides)
    with SmallRun(replace(base, resume=str(folder), name=folder.name)) as run:
        train(run)
    return folder


def test_it_saves_before_it_evaluates_and_at_the_end_once(tmp_path, monkeypatch):
    saved = []
    plain = module.save_state
    monkeypatch.setattr(
        module, "save_state", lambda folder, state, write: saved.append(state.label) or plain(folder, state, write)
    )
    seen: dict[int, list[str]] = {}
    with SmallRun(config(tmp_path, "steps=4", "checkpoints.every=2", "checkpoints.keep=9")) as run:
        run.on_prompt = run.rollouts.on_prompt = lambda count: seen.setdefault(run.state.step, names(run.folder))
        train(run)
    assert seen[2] == ["warm-000002", "warm-000004", "step-000002"], "there as the evaluation of step 2 begins"
    assert seen[4][-1] == "step-000004"
    assert saved == names(run.folder) == ["warm-000002", "warm-000004", "step-000002", "step-000004"], "nothing twice"


def test_the_clock_saves_where_no_count_of_steps_does(tmp_path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    found = Checkpoints(tmp_path, CheckpointConfig(), None)
    for minute, due in ((29, False), (30, True), (45, True)):
        now[0] = 60.0 * minute
        assert found.due(7) is due
    found.save(RunState(step=7), lambda folder: None)
    assert not found.due(8)
    now[0] += 30 * 60
    assert found.due(8)
    assert not Checkpoints(tmp_path / "other", CheckpointConfig(every_minutes=0), None).due(8)


@pytest.mark.parametrize("prompt", [1, 3, 4, 8, 9, 13, 20])
def test_a_stop_while_it_generates_saves_the_steps_beginning_and_a_resume_repeats_it(tmp_path, prompt):
    """Prompts 1 to 3 are the first evaluation's; then come 4 a step, and 3 for the evaluation after step 2."""
    straight = whole(tmp_path, "steps=5")
    stopped = SmallRun(config(tmp_path, "steps=5", "name=stopped"))
    stopped.on_prompt = lambda count: stopped.ask_to_stop() if count == prompt else None
    with stopped as run:
        train(run)
    assert run.rollouts.count == prompt, "nothing was begun after it"
    last = finished_checkpoints(run.folder / "checkpoints")[-1]
    assert load_state(last).step == run.state.step == max(0, sum(prompt > end for end in (7, 11, 18)))
    resumed(run.folder, "steps=5")
    assert story(run.folder) == story(straight)


@pytest.mark.parametrize("prompt", [2, 6, 13, 20, 23])
def test_a_kill_anywhere_loses_no_more_than_the_steps_since_the_last_checkpoint(tmp_path, prompt):
    straight = whole(tmp_path, "steps=5")

    def kill(count: int) -> None:
        if count == prompt:
            raise Killed

    with (
        pytest.raises(Killed),
        SmallRun(config(tmp_path, "steps=5", "name=killed", "checkpoints.every=1"), kill) as run,
    ):
        train(run)
    (run.folder / "checkpoints/.step-000009.partial").mkdir()
    resumed(run.folder, "steps=5")
    assert story(run.folder) == story(straight)
    assert not list((run.folder / "checkpoints").glob(".*"))


def test_a_kill_during_the_warm_start_goes_on_from_its_last_checkpoint(tmp_path, monkeypatch):
    straight = whole(tmp_path, "steps=1")
    with pytest.raises(Killed), SmallRun(config(tmp_path, "steps=1", "name=killed", "checkpoints.every=1")) as run:
        monkeypatch.setattr(
            run.console, "supervised", lambda step, *_: (_ for _ in ()).throw(Killed) if step == 3 else 0
        )
        train(run)
    assert names(run.folder) == ["warm-000002", "warm-000003"]
    resumed(run.folder, "steps=1")
    assert story(run.folder) == story(straight)


def test_the_newest_and_the_best_stay(tmp_path):
    found = Checkpoints(tmp_path, CheckpointConfig(keep=2), None)
    for step, value in enumerate([0.2, 0.7, 0.7, 0.5, 0.6], 1):
        state = RunState(step=step)
        found.save(state, lambda folder: None)
        found.score(state, {"eval/pass@1": value})
    assert names(tmp_path) == ["step-000002", "step-000004", "step-000005"]
    assert found.best() == {"metric": "eval/pass@1", "value": 0.7, "checkpoint": "step-000002"}
    found.score(RunState(step=4), {"eval/pass@1": 0.9})
    assert found.best()["value"] == 0.7, "step 4 is not what was saved last: its weights were not the ones evaluated"
    again = Checkpoints(tmp_path, CheckpointConfig(keep=1, best="policy/k3_kl", best_is_lowest=True), None)
    assert again.best() is None, "of another metric"
    for step, value in ((6, 0.1), (7, 0.01), (8, 0.2)):
        again.save(RunState(step=step), lambda folder: None)
        again.score(RunState(step=step), {"policy/k3_kl": value})
    assert names(tmp_path) == ["step-000007", "step-000008"]


def test_going_on_from_an_earlier_checkpoint_keeps_the_later_ones_aside(tmp_path):
    found = Checkpoints(tmp_path, CheckpointConfig(keep=3), None)
    for step in (1, 2, 3):
        found.save(RunState(step=step), lambda folder: None)
    again = Checkpoints(tmp_path, CheckpointConfig(keep=3), tmp_path / "checkpoints/step-000001")
    assert again.set_aside == ["step-000002.set-aside", "step-000003.set-aside"]
    assert names(tmp_path) == ["step-000001"]
    again.save(RunState(step=2), lambda folder: None)
    assert names(tmp_path) == ["step-000001", "step-000002"]
    assert (tmp_path / "checkpoints/step-000003.set-aside/state.json").exists()


def test_a_save_that_fails_keeps_the_old_checkpoint(tmp_path):
    found = Checkpoints(tmp_path, CheckpointConfig(keep=1), None)
    found.save(RunState(step=1), lambda folder: None)

    def full(folder: Path) -> None:
        (folder / "half").write_text("written")
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        found.save(RunState(step=2), full)
    assert names(tmp_path) == ["step-000001"] and not list((tmp_path / "checkpoints").glob(".*"))


def test_the_phases_add_up_to_the_step_and_the_steps_to_the_wall(tmp_path):
    folder = whole(tmp_path, "steps=4")
    lines = [line for line in read_metrics(folder) if "time/step_s" in line]
    assert len(lines) == 4
    for line in lines:
        assert sum(line[f"time/{phase}_s"] for phase in STEP_PHASES) == pytest.approx(line["time/step_s"])
    others = [line.get("time/evaluate_s", 0) + line.get("time/checkpoint_s", 0) for line in read_metrics(folder)]
    first, last = lines[0], lines[-1]
    between = sum(other for line, other in zip(read_metrics(folder), others) if 1 <= line["step"] < 4)
    wall = last["time/wall_s"] - first["time/wall_s"]
    assert sum(line["time/step_s"] for line in lines[1:]) + between == pytest.approx(wall, abs=0.01)


def test_a_text_is_replaced_as_a_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "config.yaml"
    write_text_aside(path, "first")
    with pytest.raises(UnicodeEncodeError):
        write_text_aside(path, "second \udcff")
    assert path.read_text() == "first" and [x.name for x in tmp_path.iterdir()] == ["config.yaml"]
    (tmp_path / ".config.yaml.partial").write_text("a kill left this")
    (tmp_path / ".older.former").mkdir()  # killed between two renames: the name is given back
    assert clear_asides(tmp_path) == ["config.yaml"]
    assert sorted(x.name for x in tmp_path.iterdir()) == ["config.yaml", "older"]


def test_the_best_is_written_as_json(tmp_path):
    folder = whole(tmp_path, "steps=2")
    best = json.loads((folder / "checkpoints/best.json").read_text())
    assert best["metric"] == "eval/pass@1" and (folder / "checkpoints" / best["checkpoint"]).is_dir()
