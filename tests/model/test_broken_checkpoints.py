"""Checkpoints that are broken in every way: one clear error, and nothing half-loaded."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from lightning_cispo.configs.schema import ModelConfig
from lightning_cispo.model.checkpoint import CheckpointError, load, read, save
from lightning_cispo.model.checksums import write_checksums
from tests.model.small import CONFIG, network, same


def refused(folder: Path, *said: str) -> None:
    """Loading and reading raise one error that says all this, and leave the network as it was."""
    ours = network(5)
    with pytest.raises(CheckpointError) as caught:
        load(folder, ours)
    for text in said:
        assert text in str(caught.value)
    assert same(ours, network(5))
    with pytest.raises(CheckpointError):
        read(folder)


def test_truncated_shard(saved):
    last = sorted(saved.glob("model-*.safetensors"))[-1]
    last.write_bytes(last.read_bytes()[:-100])
    refused(saved, last.name, "truncated")


def test_empty_shard(saved):
    last = sorted(saved.glob("model-*.safetensors"))[-1]
    last.write_bytes(b"")
    refused(saved, last.name, "truncated")


def test_shard_that_is_not_there(saved):
    last = sorted(saved.glob("model-*.safetensors"))[-1]
    last.unlink()
    refused(saved, last.name, "not there")


def test_shard_missing_from_the_index(saved):
    path = saved / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    last = sorted(saved.glob("model-*.safetensors"))[-1].name
    index["weight_map"] = {key: file for key, file in index["weight_map"].items() if file != last}
    path.write_text(json.dumps(index))
    refused(saved, last, "does not list")


def test_key_missing_from_the_index(saved):
    path = saved / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    del index["weight_map"]["model.norm.weight"]
    path.write_text(json.dumps(index))
    refused(saved, "contradicts", "model.norm.weight")


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"weight_map": 3}'])
def test_malformed_index(saved, text):
    (saved / "model.safetensors.index.json").write_text(text)
    refused(saved, "index")


def test_no_weights_at_all(saved):
    for file in saved.glob("model*"):
        file.unlink()
    refused(saved, "has neither")


def edited(folder: Path, change) -> Path:
    """The checkpoint as one file, its tensors changed."""
    save(folder, CONFIG, network(1).named_parameters())
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")
    write_checksums(folder)
    return folder


def test_all_missing_unexpected_and_misshapen_keys_are_listed_at_once(tmp_path):
    def change(tensors):
        del tensors["model.layers.1.block_sparse_moe.experts.3.w2.weight"], tensors["lm_head.weight"]
        tensors["model.layers.9.extra"] = torch.zeros(2)
        tensors["model.layers.0.self_attn.slope_rate2"] = torch.zeros(2)
        tensors["model.norm.weight"] = torch.zeros(7)

    refused(
        edited(tmp_path / "edited", change),
        "missing (2): lm_head.weight, model.layers.1.block_sparse_moe.experts.3.w2.weight",
        "unexpected (2): model.layers.0.self_attn.slope_rate2, model.layers.9.extra",
        "misshapen (1): model.norm.weight [7], not [32]",
    )


@pytest.mark.parametrize("dtype, name", [(torch.int8, "I8"), (torch.float8_e4m3fn, "F8_E4M3")])
def test_quantized_weights_are_not_taken_for_numbers(tmp_path, dtype, name):
    key = "model.layers.1.block_sparse_moe.experts.3.w2.weight"

    def change(tensors):
        tensors[key] = tensors[key].to(dtype)

    refused(edited(tmp_path / "edited", change), f"quantized (1): {key} {name}")


def test_only_the_four_buffers_are_ignored(tmp_path):
    def change(tensors):
        for buffer in ("slope_rate", "query_decay", "key_decay", "diagonal_decay"):
            tensors[f"model.layers.0.self_attn.{buffer}"] = torch.zeros(3)

    ours = network(2)
    load(edited(tmp_path / "edited", change), ours)
    assert same(ours, network(1))


def test_another_shape_names_the_keys(saved):
    other = network(1, ModelConfig(**{**vars(CONFIG), "hidden_size": 64, "layernorm_mlp_alpha": 2.0}))
    with pytest.raises(CheckpointError, match="hidden_size: 64, not 32; .*layernorm_mlp_alpha: 2.0, not"):
        load(saved, other)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_weights_that_are_not_finite(saved, value):
    last = sorted(saved.glob("model-*.safetensors"))[-1]
    tensors = load_file(last)
    key = sorted(tensors)[0]
    tensors[key].view(-1)[-1] = value
    save_file(tensors, last, metadata={"format": "pt"})
    write_checksums(saved)  # they were written so
    for use in (lambda: load(saved, network(5)), lambda: list(read(saved))):
        with pytest.raises(CheckpointError, match=f"{key}: holds NaN, infinity"):
            use()


def test_weights_that_the_network_s_dtype_cannot_hold(tmp_path):
    made = {name: parameter.detach().clone() for name, parameter in network(1).named_parameters()}
    made["lm_head.weight"][0, 0] = 1e38
    save(tmp_path / "wide", CONFIG, made.items())
    load(tmp_path / "wide", network(5))
    with pytest.raises(CheckpointError, match=r"lm_head.weight: holds .* more than torch.float16 can"):
        load(tmp_path / "wide", network(5).half())
