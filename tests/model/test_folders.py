"""Which folder of weights a path means: one rule for training, evaluating and serving."""

from __future__ import annotations

from pathlib import Path

import pytest

from lightning_cispo.model.folders import finished_checkpoints, weights_folder
from lightning_cispo.model.serve import __main__ as serving
from lightning_cispo.train import weights


def checkpoint(run: Path, name: str, whole: bool = True) -> Path:
    folder = run / "checkpoints" / name / "model"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    if whole:
        (folder.parent / "state.json").write_text("{}")
    return folder


@pytest.mark.parametrize(
    ("names", "newest"),
    [
        (["warm-000300"], "warm-000300"),  # a run of `cispo sft` alone
        (["warm-000300", "step-000002"], "step-000002"),
        (["step-000009", "step-000010", "warm-000300"], "step-000010"),
        (["step-999999", "step-1000000"], "step-1000000"),
    ],
)
def test_a_run_means_its_newest_checkpoint(tmp_path, names, newest):
    for name in names:
        checkpoint(tmp_path, name)
    half = checkpoint(tmp_path, "step-2000000", whole=False)
    assert weights_folder(str(tmp_path)) == tmp_path / "checkpoints" / newest / "model"
    assert half.parent not in finished_checkpoints(tmp_path / "checkpoints")


def test_a_checkpoint_and_a_folder_of_weights_mean_themselves(tmp_path):
    model = checkpoint(tmp_path, "step-000001")
    assert weights_folder(str(model)) == weights_folder(str(model.parent)) == model
    assert weights_folder(str(tmp_path / "nowhere")) == tmp_path / "nowhere"


def test_training_and_serving_use_the_same_rule():
    assert weights.weights_folder is serving.weights_folder is weights_folder
