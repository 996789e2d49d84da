"""ZeRO-3: each rank reads and holds its share; the model stands whole on no rank while it is loaded or saved."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from lightning_cispo.configs.schema import ModelConfig
from lightning_cispo.model.checkpoint import read, read_config, save
from lightning_cispo.model.network import MiniMax
from lightning_cispo.train.weights import in_parts

MODEL = ModelConfig(
    hidden_size=256, intermediate_size=512, num_hidden_layers=8, softmax_every=4, num_local_experts=16, head_dim=64
)
SHARD = 8_000_000

# A learner rank without Ray. Prints what it read, and by how much each action raised its resident memory at most.
_RANK = """
import json, re, sys
from pathlib import Path
import torch
from lightning_cispo.configs.schema import LearnerConfig, ModelConfig, OptimizerConfig, RunConfig
from lightning_cispo.model.checkpoint import read_config
from lightning_cispo.model.layout import parameter_shapes
from lightning_cispo.model.network import MiniMax
from lightning_cispo.model.shards import ShardReader
from lightning_cispo.train.learner import Learner
from lightning_cispo.train.partitions import build_network, whole_parameters

folder, rank, port = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
model, bytes_read, plain_read = read_config(folder / "given"), 0, ShardReader.flat

def counted(self, *where):
    global bytes_read
    part = plain_read(self, *where)
    bytes_read += part.nbytes
    return part

def held(key):
    return 1024 * int(re.search(key + r":\\s+(\\d+)", Path("/proc/self/status").read_text())[1])

def growth(action):
    Path("/proc/self/clear_refs").write_text("5")  # forget the highest mark
    before = held("VmRSS")
    result = action()
    return held("VmHWM") - before, result

ShardReader.flat = counted
learner = Learner(RunConfig(learner=LearnerConfig(world_size=2, zero_stage=3, threads=1)), model, rank)
learner.connect("127.0.0.1", port)
settings = {"train_batch_size": 2, "zero_optimization": {"stage": 3}}
for _ in range(2):  # the first time also loads what the libraries need
    bytes_read = 0
    loaded, network = growth(lambda: build_network(model, torch.float32, str(folder / "given"), 0, settings))
drawn = build_network(model, torch.float32, None, 7, settings)
alone = dict(MiniMax(model).initialize(7).named_parameters())
same_draws = all(torch.equal(whole, alone[name]) for name, whole in whole_parameters(drawn))
del network, drawn, alone
found = {"read": bytes_read, "loaded": loaded, "same draws": same_draws}
learner.start(str(folder / "given"), OptimizerConfig())
found["saved"], _ = growth(lambda: learner.save(str(folder / "run"), "bytes", int(sys.argv[4])))
small = ModelConfig(hidden_size=32, num_hidden_layers=2, tie_word_embeddings=True, shared_intermediate_size=16)
tied = Learner(learner.config, small, rank)
tied.start(None, OptimizerConfig())
exported = [name for part in tied.export() for name in part]
found["tied"] = exported == ([] if rank else list(parameter_shapes(small)))
print(json.dumps(found), flush=True)
"""


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@pytest.fixture(scope="module")
def ranks(tmp_path_factory) -> tuple[Path, list[dict[str, int]]]:
    """Two ranks that load, draw and save; their folder and what each printed."""
    folder = tmp_path_factory.mktemp("partitions")
    save(folder / "given", MODEL, MiniMax(MODEL).initialize(3).named_parameters(), max_shard_bytes=SHARD)
    # Large blocks go back to the system when freed: what is measured is what the code holds, not the allocator.
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MALLOC_MMAP_THRESHOLD_": "1000000"}
    environment["CUDA_VISIBLE_DEVICES"] = ""
    port = str(free_port())
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", _RANK, str(folder), str(rank), port, str(SHARD)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        said = [process.communicate(timeout=240) for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0], said
    return folder, [json.loads(out.splitlines()[-1]) for out, _ in said]


def model_bytes() -> int:
    return sum(4 * parameter.numel() for parameter in MiniMax(MODEL).parameters())


def test_each_rank_reads_its_half(ranks):
    whole = model_bytes()
    for rank in ranks[1]:
        assert 0.49 * whole < rank["read"] < 0.51 * whole


def test_loading_and_saving_hold_no_model(ranks):
    """Loading: half the model, a mapped shard, the module being made. Saving: shards, and a parameter gathered."""
    whole = model_bytes()
    for rank in ranks[1]:
        assert 0.4 * whole < rank["loaded"] < 0.75 * whole
        assert rank["saved"] < 0.5 * whole


def test_what_is_saved_is_what_was_loaded(ranks):
    folder, _ = ranks
    given = dict(read(folder / "given"))
    assert read_config(folder / "run" / "model") == read_config(folder / "given")
    for name, tensor in read(folder / "run" / "model"):
        assert torch.equal(tensor, given.pop(name)), name
    assert not given


def test_random_weights_do_not_depend_on_the_ranks(ranks):
    assert all(rank["same draws"] for rank in ranks[1])


def test_a_head_tied_to_the_embedding_is_one_parameter(ranks):
    assert all(rank["tied"] for rank in ranks[1])


def test_weights_travel_in_parts(monkeypatch):
    monkeypatch.setattr("lightning_cispo.train.weights._PART_BYTES", 10_000)
    named = [(str(n), torch.full((n, 100), n, dtype=torch.bfloat16)) for n in (1, 10, 40, 3, 4, 30)]
    parts = list(in_parts(named))
    assert [list(part) for part in parts] == [["1", "10", "40"], ["3", "4", "30"]]
    for name, array in (item for part in parts for item in part.items()):
        assert array.dtype == "float32" and array.shape == (int(name), 100) and (array == int(name)).all()
