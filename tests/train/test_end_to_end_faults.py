"""Faults while a run is under way, as its user meets them."""

from __future__ import annotations

import json

from lightning_cispo.model.folders import finished_checkpoints
from tests.train.programs import Program, metrics
from tests.train.test_user_paths import SMALL

VERIFIER = """
from pathlib import Path

def judge(problem, response):
    if Path({down!r}).exists():
        raise ConnectionError("the grading service is away")
    return len(response.text) % 2 == 0
"""


def test_a_run_waits_for_its_verifier_then_saves_and_goes_on_later(tmp_path):
    down = tmp_path / "down"
    down.touch()
    (tmp_path / "grading.py").write_text(VERIFIER.format(down=str(down)))
    rows = [json.dumps({"question": f"{i}?", "answer": str(i)}) for i in range(20)]
    (tmp_path / "train.jsonl").write_text("\n".join(rows))
    given = (
        *("experiment=gsm8k", "data.train=train.jsonl", "data.verifier=grading:judge", "data.answer_pattern=null"),
        *("steps=2", "evaluation.problems=0", "rollout.workers=1", "algorithm.dynamic_sampling=false", *SMALL),
    )
    program = Program("train", *given, "rollout.wait_for_verifier_s=1.5", cwd=tmp_path)
    code, out, err = program.finish()
    assert code == 1, out + err
    assert "verdicts failed, verifier grading:judge: the verifier failed: ConnectionError: the grading service" in err
    assert "waited 1.5 s (rollout.wait_for_verifier_s)" in err and "Traceback" not in err
    assert "trying again for up to 1.5 s" in out and not program.leftovers()
    assert not any("reward/mean" in line for line in metrics(tmp_path / "runs/gsm8k"))

    program = Program("train", "resume=runs/gsm8k", "rollout.wait_for_verifier_s=100", cwd=tmp_path)
    seen = program.wait_for("trying again for up to 100 s")
    down.unlink()
    code, out, err = program.finish()
    assert code == 0, seen + out + err
    assert "verdicts are there again" in out
    learned = [line for line in metrics(tmp_path / "runs/gsm8k") if "reward/mean" in line]
    assert [line["step"] for line in learned] == [1, 2]
    assert all(line["groups/masked"] == 0 and line["policy/empty_updates"] == 0 for line in learned)


def test_weights_that_overflow_end_the_run_and_leave_the_checkpoint_before(tmp_path):
    """The first update makes them infinite; the second is skipped; nothing is published or saved after that."""
    given = "optimizer.lr=1e300", "learner.zero_stage=0", "evaluation.problems=0", "tracking.mode=disabled"
    program = Program("train", "experiment=smoke", f"runs_dir={tmp_path}", *given)
    code, out, err = program.finish()
    assert code == 1, out + err
    assert "ended: the weights are no longer finite: " in err and "Traceback" not in err
    assert "step-000001-update-2: skipped, the loss or a gradient is not finite (1 in a row)" in out
    folder = tmp_path / "smoke"
    assert [path.name for path in finished_checkpoints(folder / "checkpoints")] == ["warm-000003"]
    assert [path.name for path in (folder / "skipped").iterdir()] == ["step-000001-update-2-0.npz"]
    assert not any("policy/loss" in line for line in metrics(folder))
