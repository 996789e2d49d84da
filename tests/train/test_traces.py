"""Responses on disk: how many, how large, found again by an index."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from lightning_cispo.rewards.verdict import Problem
from lightning_cispo.rl.types import Group, Prompt
from lightning_cispo.train.report import data as report_data
from lightning_cispo.train.report.data import read_traces
from lightning_cispo.train.traces import Traces, read_index, trace_files
from lightning_cispo.train.tracking import read_lines
from tests.train.fake_run import HOSTILE, trajectory


def groups(count: int, samples: int = 4, text: str = "<think>1</think>2") -> list[Group]:
    problem = Problem("1+1=", "2", "chain_sum", "chain_sum")
    prompt = Prompt(7, problem, np.arange(3, dtype=np.int32))
    return [Group(prompt, [trajectory(text, i % 2, i) for i in range(samples)]) for _ in range(count)]


def lines(folder: Path, step: int) -> list[dict]:
    return list(read_lines(folder / f"step-{step:06d}.jsonl"))


def test_a_step_is_traced_in_whole_groups_evenly_spaced_up_to_the_rate(tmp_path):
    traces = Traces(tmp_path, per_step=14, megabytes=1)
    traces.write(1, groups(10), "train", None)
    traces.write(2, groups(3), "train", None)
    traces.write(2, groups(10), "eval", None)
    assert [(line["group"], line["sample"]) for line in lines(tmp_path, 1)] == [
        (g, s) for g in (0, 3, 6) for s in range(4)
    ]
    assert len(lines(tmp_path, 2)) == 3 * 4 + 10 * 4, "evaluations whole"
    Traces(tmp_path, per_step=1, megabytes=1).write(3, groups(10), "train", None)
    assert len(lines(tmp_path, 3)) == 4, "one group at least"
    Traces(tmp_path, per_step=0, megabytes=1).write(4, groups(10), "train", None)
    assert not (tmp_path / "step-000004.jsonl").exists()


def test_the_tokens_of_prompt_and_response_are_there(tmp_path):
    group = groups(1, samples=1)[0]
    group.trajectories[0].tokens_T[:] = np.arange(17)
    Traces(tmp_path, 9, 1).write(1, [group], "train", None)
    (line,) = lines(tmp_path, 1)
    assert (line["prompt_ids"], line["token_ids"]) == ([0, 1, 2], list(range(17)))


def test_the_oldest_steps_go_when_all_are_too_large(tmp_path):
    traces = Traces(tmp_path, per_step=99, megabytes=1)
    for step in range(1, 13):
        traces.write(step, groups(1, text="x" * 30_000), "train", None)
    sizes = {path.name: path.stat().st_size for path in tmp_path.iterdir()}
    assert (1 << 20) - 2 * sizes["step-000012.jsonl"] < sum(sizes.values()) <= 1 << 20
    assert trace_files(tmp_path)[-1].stem == "step-000012" and not (tmp_path / "step-000001.index").exists()
    again = Traces(tmp_path, per_step=99, megabytes=1)
    again.write(13, groups(1, text="x" * 30_000), "train", None)
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= 1 << 20, "also of files that were there before"
    again.write(14, groups(9, text="x" * 100_000), "eval", None)
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= (1 << 20) + 2000, "one step alone is cut too"
    assert len(lines(tmp_path, 14)) == 2


def test_the_index_finds_every_group(tmp_path):
    traces = Traces(tmp_path, 99, 1)
    traces.write(1, groups(2, text=HOSTILE), "train", None)
    traces.write(1, groups(2), "eval", None)
    path = tmp_path / "step-000001.jsonl"
    entries, text = read_index(path), path.read_bytes()
    assert [(entry["kind"], entry["group"], entry["count"]) for entry in entries] == [
        ("train", 0, 4),
        ("train", 1, 4),
        ("eval", 0, 4),
        ("eval", 1, 4),
    ]
    for entry in entries:
        part = text[entry["at"] : entry["at"] + entry["bytes"]].splitlines()
        assert len(part) == 4 and all(json.loads(line)["group"] == entry["group"] for line in part)
    with open(path, "ab") as file:
        file.write(b'{"step": 1, "kind": "tr')
    assert read_index(path) is None, "it does not cover what a killed program left"
    assert read_traces(tmp_path)["total"] == 16


def test_the_report_reads_what_it_shows_and_no_more(tmp_path, monkeypatch):
    traces = Traces(tmp_path, 999, 100)
    for step in range(1, 31):
        traces.write(step, groups(20, text="y" * 2000), "train", None)
    monkeypatch.setattr(report_data, "MAX_TRACE_BYTES", 200_000)
    parsed = []
    plain = report_data.json.loads
    monkeypatch.setattr(report_data.json, "loads", lambda text: parsed.append(len(text)) or plain(text))
    found = read_traces(tmp_path)
    assert found["total"] == 30 * 20 * 4 and found["files"] == 30
    assert len({row[0] for row in found["rows"]}) == 30 and len(found["rows"]) >= 60
    on_disk = sum(path.stat().st_size for path in tmp_path.glob("*.jsonl"))
    assert sum(parsed) < on_disk / 3


@pytest.mark.parametrize("evaluated", [True, False])
def test_a_rewind_drops_later_steps_and_an_evaluation_that_was_not_finished(tmp_path, evaluated):
    traces = Traces(tmp_path, 99, 1)
    for step in (1, 2, 3):
        traces.write(step, groups(1), "train", None)
    traces.write(2, groups(1), "eval", None)
    traces.rewind(2, evaluated)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "step-000001.index",
        "step-000001.jsonl",
        "step-000002.index",
        "step-000002.jsonl",
    ]
    kinds = [line["kind"] for line in lines(tmp_path, 2)]
    assert kinds == ["train"] * 4 + ["eval"] * 4 * evaluated
    assert sum(entry["count"] for entry in read_index(tmp_path / "step-000002.jsonl")) == len(kinds)
