"""A save that fails or is killed leaves the old checkpoint whole."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest
import torch

from lightning_cispo.model.aside import written_aside
from lightning_cispo.model.checkpoint import CheckpointError, load, save
from tests.model.small import CONFIG, network, same, weights


@pytest.mark.parametrize(
    "change, said",
    [
        (lambda t: t.pop("model.norm.weight"), "missing (1): model.norm.weight"),
        (lambda t: t.update({"model.norms.weight": torch.zeros(1)}), "model.norms.weight [1]: wanted is no such"),
        (lambda t: t.update({"lm_head.weight": torch.zeros(2, 3)}), "lm_head.weight [2, 3]: wanted is (272, 32)"),
    ],
)
def test_saving_other_tensors_than_the_configs_leaves_the_old_checkpoint(saved, change, said):
    tensors = weights(network(2))
    change(tensors)
    with pytest.raises(CheckpointError) as caught:
        save(saved, CONFIG, tensors.items())
    assert said in str(caught.value)
    ours = network(3)
    load(saved, ours)
    assert same(ours, network(1))
    assert [x.name for x in saved.parent.iterdir()] == ["saved"]


_KILLED = """
import os, signal, sys
from lightning_cispo.model.checkpoint import read_config, save
from lightning_cispo.model.network import MiniMax
config = read_config(sys.argv[1])
def tensors():
    for number, pair in enumerate(MiniMax(config).initialize(2).named_parameters()):
        if number == 12:
            os.kill(os.getpid(), signal.SIGKILL)
        yield pair
save(sys.argv[1], config, tensors(), max_shard_bytes=30_000)
"""


def test_killed_half_way_leaves_the_old_one_whole(saved):
    before = {file.name: file.read_bytes() for file in saved.iterdir()}
    done = subprocess.run([sys.executable, "-c", _KILLED, str(saved)], timeout=120)
    assert done.returncode == -signal.SIGKILL
    assert list((saved.parent / ".saved.partial").glob("shard-*"))  # it had begun to write
    assert {file.name: file.read_bytes() for file in saved.iterdir()} == before
    # the next save clears what was left, and replaces the old one as a whole
    save(saved, CONFIG, network(4).named_parameters())
    assert sorted(x.name for x in saved.iterdir()) == ["SHA256SUMS", "config.json", "model.safetensors"]
    assert [x.name for x in saved.parent.iterdir()] == ["saved"]


@pytest.mark.parametrize("exchange", ["as the system does it", "two renames"])
def test_a_folder_written_aside_replaces_or_not_at_all(tmp_path, monkeypatch, exchange):
    if exchange == "two renames":
        monkeypatch.setattr(
            "lightning_cispo.model.aside._exchange", lambda one, other: os.rename(one, other)
        )  # fails: not empty
    target = tmp_path / "deep" / "target"
    for text in ("first", "second"):
        with written_aside(target) as aside:
            (aside / "file").write_text(text)
        assert (target / "file").read_text() == text
    with pytest.raises(RuntimeError), written_aside(target) as aside:
        (aside / "file").write_text("third")
        raise RuntimeError
    assert (target / "file").read_text() == "second"
    assert [x.name for x in target.parent.iterdir()] == ["target"]
