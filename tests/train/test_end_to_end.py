"""The whole path as a user runs it: two learner ranks, two rollout workers, stops, resumes, evaluations."""

from __future__ import annotations

import json
import os
import re
import signal
import time

import psutil
import pytest
import yaml

from lightning_cispo.model.checksums import damaged
from lightning_cispo.train.metrics import STEP_PHASES, describe
from tests.train.programs import Program, metrics, run, steps_without_times, traces

TINY = ("experiment=smoke", "learner.world_size=2", "learner.threads=1", "rollout.threads=1")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A finished three-step run with ZeRO-2 and routing replay."""
    runs = tmp_path_factory.mktemp("runs")
    options = "learner.zero_stage=2", "name=whole", "checkpoints.every=2", "algorithm.routing_replay=true"
    out = run("train", *TINY, f"runs_dir={runs}", *options)
    assert "step 3/3" in out and "pass@1 before" in out and "report.html" in out
    return runs / "whole"


def test_the_run_folder_holds_everything(folder):
    assert yaml.safe_load((folder / "config.yaml").read_text())["learner"]["zero_stage"] == 2
    assert "<html" in (folder / "report.html").read_text()
    best = json.loads((folder / "checkpoints/best.json").read_text())["checkpoint"]
    checkpoints = sorted(path.name for path in (folder / "checkpoints").iterdir())
    assert checkpoints == sorted({"best.json", best, "step-000002", "step-000003"}), "the newest two, no leftovers"
    assert all(damaged(folder / "checkpoints" / name) == [] for name in ("step-000002", "step-000003"))
    assert (folder / "checkpoints/step-000003/model/config.json").exists()
    for line in metrics(folder):
        for name in line:
            describe(name)  # raises for a name outside the table


def test_what_happened_is_in_the_metrics(folder):
    lines = metrics(folder)
    assert sum("warm_start/loss" in line for line in lines) == 3
    assert [line["step"] for line in lines if "eval/pass@1" in line] == [0, 3]
    steps = [line for line in lines if "policy/loss" in line]
    assert [line["step"] for line in steps] == [line["policy/version"] for line in steps] == [1, 2, 3]
    for line in steps:
        assert line["groups/kept"] == 4 and line["memory/total_mb"] > 100
        assert sum(line[f"time/{phase}_s"] for phase in STEP_PHASES) == pytest.approx(line["time/step_s"])
        # Several updates a batch: by the second the policy has moved away from the sampler.
        assert line["policy/ratio_max"] > 1 > line["policy/ratio_min"] or line["reward/mean"] in (0, 1)
        assert line["policy/k3_kl"] < 0.01 and line["policy/pearson"] > 0.99
        assert 0 <= line["policy/routing_changed"] < 0.1


def test_every_trajectory_is_traced(folder):
    lines = traces(folder)
    trained = [line for line in lines if line["kind"] == "train"]
    assert len(trained) == 3 * 4 * 4 and len(lines) - len(trained) == 2 * 8
    for line in trained:
        assert line["versions"] == [line["step"] - 1] * 2, "sampled by the weights of the step before"
        assert line["stop"] in ("eos", "length") and line["reward"] is not None and line["prompt"]


def test_evaluation_of_a_run(folder, tmp_path):
    out = run(
        "evaluate",
        f"checkpoint={folder}",
        "data=arithmetic",
        "evaluation.problems=6",
        "evaluation.samples=4",
        "sampling.max_tokens=8",
        f"runs_dir={tmp_path}",
        "tracking.mode=disabled",
    )
    for name in ("pass@1", "avg@4", "pass@2", "pass@4", "[", "chain_sum", "count_bits", "held out after step 3"):
        assert name in out


def test_an_evaluation_of_a_run_is_the_runs_own(folder, tmp_path):
    """Its configuration, its problems, its random streams: the same responses as after the last step."""
    run("evaluate", f"checkpoint={folder}", "name=again", f"runs_dir={tmp_path}", "tracking.mode=disabled")
    again, after = (
        [line for line in metrics(run_) if "eval/problems" in line][-1]
        for run_ in (tmp_path / "evaluate-again", folder)
    )
    assert again["step"] == after["step"] == 3
    names = {name for name in after if name.startswith("eval/")}
    assert len(names) > 8 and {name: again[name] for name in names} == {name: after[name] for name in names}
    responses = [
        {(line["question"], line["sample"]): line["response"] for line in traces(run_) if line["kind"] == "eval"}
        for run_ in (tmp_path / "evaluate-again", folder)
    ]
    assert len(responses[0]) == 8 and responses[0].items() <= responses[1].items()


def test_sft_alone(tmp_path):
    out = run("sft", *TINY, f"runs_dir={tmp_path}", "name=sft", "tracking.mode=disabled", "learner.zero_stage=3")
    assert "held out" in out
    assert (tmp_path / "sft/checkpoints/warm-000003/model/config.json").exists()


def test_exact_log_probabilities_from_worker_to_learner(tmp_path):
    """Two steps of one update: every ratio is 1 to the bit, under ZeRO-3 and over packed rows."""
    options = "learner.exact=true", "learner.zero_stage=3", "algorithm.updates_per_step=1", "steps=2"
    run("train", *TINY, *options, f"runs_dir={tmp_path}", "name=exact", "tracking.mode=disabled")
    steps = [line for line in metrics(tmp_path / "exact") if "policy/loss" in line]
    assert len(steps) == 2
    for line in steps:
        assert line["policy/k3_kl"] == 0 and line["policy/ratio_max"] == line["policy/ratio_min"] == 1


def test_on_a_running_cluster_of_two_nodes(two_nodes, tmp_path):
    out = run("train", *TINY, f"cluster.address={two_nodes}", f"runs_dir={tmp_path}", "tracking.mode=disabled")
    assert "step 3/3" in out and (tmp_path / "smoke/checkpoints/step-000003/model/config.json").exists()


def test_stop_and_go(tmp_path):
    """Stopped anywhere and resumed, the run is the one that was never stopped."""
    common = (*TINY, f"runs_dir={tmp_path}", "tracking.mode=disabled", "evaluation.problems=4")
    program = Program("train", *common, "name=stopped", "steps=100000")
    program.wait_for(" 2/100000")
    program.process.send_signal(signal.SIGTERM)
    code, out, err = program.finish()
    assert code == 143 and program.leftovers() == [], err[-3000:]
    assert f"resume={tmp_path / 'stopped'}" in out
    done = max(line["step"] for line in metrics(tmp_path / "stopped"))
    run("train", f"resume={tmp_path / 'stopped'}", f"steps={done + 2}")
    run("train", *common, "name=straight", f"steps={done + 2}")
    resumed, straight = (steps_without_times(tmp_path / name, after=done) for name in ("stopped", "straight"))
    assert len(resumed) == len(straight) == 3, "two steps and an evaluation"
    for ours, theirs in zip(resumed, straight, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-4, abs=1e-6)
    texts = [[t["response"] for t in traces(tmp_path / name) if t["step"] > done] for name in ("stopped", "straight")]
    assert texts[0] == texts[1]


def test_the_death_of_a_learner_rank_is_one_line_and_nothing_is_lost(tmp_path):
    common = (*TINY, f"runs_dir={tmp_path}", "name=dead", "steps=100000", "checkpoints.every=1")
    program = Program("train", *common)
    program.wait_for(" 2/100000")
    rank = next(p for p in psutil.Process(program.process.pid).children(recursive=True) if "ray::Learner" in p.name())
    rank.kill()
    code, _, err = program.finish()
    last = err.splitlines()[-1]
    assert code == 1 and "Traceback" not in err
    assert re.match(rf"error: learner rank \d of 2 died: process {rank.pid} .*was killed or crashed", last), err[-3000:]
    assert re.search(rf"; to continue from step-\d+: cispo train resume={tmp_path / 'dead'}$", last)
    assert (tmp_path / "dead/error.log").exists() and program.leftovers() == []
    done = max(line["step"] for line in metrics(tmp_path / "dead"))
    run("train", f"resume={tmp_path / 'dead'}", f"steps={done + 1}")


def test_ctrl_c_during_the_warm_start(tmp_path):
    """Of which every process on the terminal hears."""
    common = (*TINY, f"runs_dir={tmp_path}", "name=warm", "tracking.mode=disabled", "steps=1")
    program = Program("train", *common, "warm_start.steps=100000")
    path = tmp_path / "warm/metrics.jsonl"
    while not (path.exists() and path.read_text().count("warm_start/loss") >= 2):
        assert program.process.poll() is None
        time.sleep(0.2)
    os.killpg(program.process.pid, signal.SIGINT)
    code, out, err = program.finish()
    assert f"resume={tmp_path / 'warm'}" in out
    assert code == 130 and program.leftovers() == [], err[-3000:]
    done = sum("warm_start/loss" in line for line in metrics(tmp_path / "warm"))
    again = Program("train", f"resume={tmp_path / 'warm'}")
    while sum("warm_start/loss" in line for line in metrics(tmp_path / "warm")) <= done + 1:
        assert again.process.poll() is None
        time.sleep(0.2)
    again.process.send_signal(signal.SIGTERM)
    assert again.finish()[0] == 143
    counted = [line["warm_start/step"] for line in metrics(tmp_path / "warm") if "warm_start/loss" in line]
    assert counted == list(range(1, len(counted) + 1)) and len(counted) > done
