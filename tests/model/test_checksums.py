"""Checksums: what `sha256sum` says of them, and what is found to be damaged."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from lightning_cispo.model.checkpoint import CheckpointError, load, read
from lightning_cispo.model.checksums import damaged, write_checksums
from tests.model.small import network


def test_sha256sum_agrees_and_a_sealed_subfolder_is_covered_by_its_own_list(tmp_path):
    inner = tmp_path / "inner"
    inner.mkdir()
    (inner / "weights").write_bytes(b"1" * 5_000_000)
    write_checksums(inner)
    (tmp_path / "state.json").write_text("{}")
    (tmp_path / "deep" / "er").mkdir(parents=True)
    (tmp_path / "deep/er/file").write_text("x")
    write_checksums(tmp_path)
    listed = [line.split("  ")[1] for line in (tmp_path / "SHA256SUMS").read_text().splitlines()]
    assert listed == ["deep/er/file", "inner/SHA256SUMS", "state.json"]
    for folder in (tmp_path, inner):
        assert subprocess.run(["sha256sum", "--check", "--strict", "--quiet", "SHA256SUMS"], cwd=folder).returncode == 0
    assert damaged(tmp_path) == []
    data = bytearray((inner / "weights").read_bytes())
    data[4_999_999] ^= 1
    (inner / "weights").write_bytes(data)
    assert damaged(tmp_path) == ["inner/weights has other bytes than were written"]
    (inner / "weights").unlink()
    (tmp_path / "state.json").write_text("{ }")
    assert damaged(tmp_path) == ["state.json has other bytes than were written", "inner/weights is missing"]


def test_a_folder_without_sums_has_nothing_to_differ_from(tmp_path):
    (tmp_path / "file").touch()
    assert damaged(tmp_path) == []
    (tmp_path / "SHA256SUMS").write_bytes(b"\xff\xfe")
    assert damaged(tmp_path) == ["SHA256SUMS is no list of sums"]


def test_a_bit_that_flips_in_a_shard_is_found_on_load(saved):
    shard = sorted(saved.glob("model-*.safetensors"))[1]
    data = bytearray(shard.read_bytes())
    data[-1] ^= 1
    shard.write_bytes(data)
    for attempt in (lambda: next(read(saved)), lambda: load(saved, network(2))):
        with pytest.raises(CheckpointError, match=f"damaged: {shard.name} has other bytes than were written"):
            attempt()
    (saved / "SHA256SUMS").unlink()  # as another program's folder has none
    load(saved, network(2))
    shutil.rmtree(saved)
