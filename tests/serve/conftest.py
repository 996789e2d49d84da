"""A server in its own process, over a small random checkpoint with the byte tokenizer."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from lightning_cispo.configs.schema import ModelConfig
from lightning_cispo.model import checkpoint
from lightning_cispo.model.network import MiniMax
from lightning_cispo.model.tokenizer import load_tokenizer

SLOTS, MAX_LENGTH, MAX_WAITING = 32, 600, 220


@pytest.fixture(scope="session")
def checkpoint_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Bytes at a high temperature of their own: the policy rarely ends by itself and says nothing in particular."""
    folder = tmp_path_factory.mktemp("served") / "checkpoint"
    config = ModelConfig(vocab_size=264, hidden_size=32, intermediate_size=32, num_hidden_layers=4, softmax_every=4)
    network = MiniMax(config).initialize(0)
    with torch.no_grad():
        network.lm_head.weight.mul_(10)
    checkpoint.save(folder, config, network.named_parameters(), load_tokenizer("bytes"))
    return folder


def command(folder: Path, **changes: object) -> list[str]:
    options = dict(checkpoint=folder, port=0, threads=1, slots=SLOTS, max_length=MAX_LENGTH, max_waiting=MAX_WAITING)
    options |= dict(kv_tokens=4000, max_body_mb=2, name="small")
    return [
        sys.executable,
        "-m",
        "lightning_cispo.model.serve",
        *(f"{key}={value}" for key, value in {**options, **changes}.items()),
    ]


@contextmanager
def serving(folder: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A server's process, which writes its log to the standard output, and its URL."""
    process = subprocess.Popen(command(folder), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        assert process.stdout is not None
        lines = []
        for line in process.stdout:
            lines.append(line)
            if found := re.search(r"http://127\.0\.0\.1:(\d+)", line):
                break
        else:
            raise AssertionError("the server did not start:\n" + "".join(lines))
        yield process, f"http://127.0.0.1:{found[1]}"
    finally:
        process.terminate()
        process.wait(30)


@pytest.fixture(scope="session")
def address(checkpoint_folder: Path) -> Iterator[str]:
    """The URL of the running server."""
    with serving(checkpoint_folder) as (_, url):
        yield url
