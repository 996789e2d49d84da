"""Whole runs that differ in workers, slots and threads alone end with the same weights to the bit."""

from __future__ import annotations

import pytest

from lightning_cispo.kernels.native.library import library
from tests.train.programs import run

OPTIONS = (
    *("experiment=smoke", "tracking.mode=disabled", "evaluation.problems=0", "learner.threads=1"),
    *("warm_start.steps=20", "algorithm.prompts_per_step=16", "algorithm.updates_per_step=2"),
)


@pytest.mark.soak
def test_two_workers_of_32_slots_and_one_of_5(tmp_path):
    if library() is None:
        pytest.skip("no C compiler: torch rounds otherwise in other company")
    found = []
    for name, *how in (
        ("many", "rollout.workers=2", "rollout.slots=32", "rollout.threads=1"),
        ("few", "rollout.workers=1", "rollout.slots=5", "rollout.threads=2", "rollout.prefill_tokens=64"),
    ):
        run("train", *OPTIONS, f"runs_dir={tmp_path}", f"name={name}", *how)
        model = tmp_path / name / "checkpoints/step-000003/model"
        found.append({path.name: path.read_bytes() for path in sorted(model.glob("*.safetensors"))})
    assert found[0] and found[0] == found[1]
