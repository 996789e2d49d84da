"""A server in its own process, over a small random checkpoint with the byte tokenizer."""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import time
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
def serving(folder: Path) -> Iterator[tuple[subprocess.Popen[bytes], str, Path]]:
    """A server's process, its URL and its log: a file, since a pipe that nobody reads would fill and stop it."""
    with tempfile.NamedTemporaryFile("r", suffix=".log") as log:
        with open(log.name, "wb") as out:
            process = subprocess.Popen(command(folder), stdout=out, stderr=subprocess.STDOUT)
        try:
            yield process, _url(process, Path(log.name)), Path(log.name)
        finally:
            process.terminate()
            process.wait(30)


def _url(process: subprocess.Popen[bytes], log: Path) -> str:
    while process.poll() is None:
        if found := re.search(r"http://127\.0\.0\.1:(\d+)", log.read_text()):
            return f"http://127.0.0.1:{found[1]}"
        time.sleep(0.05)
    raise AssertionError(f"the server did not start:\n{log.read_text()}")


@pytest.fixture(scope="session")
def address(checkpoint_folder: Path) -> Iterator[str]:
    """The URL of the running server."""
    with serving(checkpoint_folder) as (_, url, _log):
        yield url
