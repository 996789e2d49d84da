"""Saving and loading: exact round trips, transformers beside us, the release's index."""

from __future__ import annotations

import json
import math
import os
import shutil

import pytest
import torch
from safetensors.torch import load_file

from lightning_cispo.configs.schema import ModelConfig
from lightning_cispo.model.checkpoint import CheckpointError, load, read, read_config, save
from lightning_cispo.model.layout import is_router, parameter_shapes, pieces
from lightning_cispo.model.network import MiniMax
from lightning_cispo.model.sizes import checkpoint_bytes, count_parameters
from lightning_cispo.model.tokenizer import load_tokenizer
from tests.model.oracle import ORACLE, RELEASE, needs_oracle, needs_release, network_of, rows_of, worst
from tests.model.small import CONFIG, network, same, weights


@pytest.mark.parametrize("max_shard_bytes", [1, 20_000, 10**9], ids=["tensor a shard", "some shards", "one file"])
@pytest.mark.parametrize(
    "changes",
    [{}, {"shared_intermediate_size": 8}, {"tie_word_embeddings": True}, {"rotary_dim": 4}],
    ids=str,
)
def test_round_trip(tmp_path, max_shard_bytes, changes):
    config = ModelConfig(**{**vars(CONFIG), **changes})
    ours = network(1, config)
    save(tmp_path / "saved", config, ours.named_parameters(), max_shard_bytes=max_shard_bytes)
    theirs = network(2, read_config(tmp_path / "saved"))
    load(tmp_path / "saved", theirs)
    assert same(ours, theirs)
    assert {name: tuple(t.shape) for name, t in read(tmp_path / "saved")} == parameter_shapes(config)
    several = (tmp_path / "saved" / "model.safetensors.index.json").exists()
    assert several == (max_shard_bytes < 10**9)
    assert [x.name for x in tmp_path.iterdir()] == ["saved"]  # nothing left aside


def test_bf16_keeps_the_router_in_float32(tmp_path):
    ours = network(1)
    save(tmp_path / "saved", CONFIG, ours.named_parameters(), dtype=torch.bfloat16)
    stored = load_file(tmp_path / "saved" / "model.safetensors")
    assert {is_router(key) for key in stored} == {True, False}
    for key, tensor in stored.items():
        assert tensor.dtype == (torch.float32 if is_router(key) else torch.bfloat16), key
    assert sum(x.nbytes for x in stored.values()) == checkpoint_bytes(CONFIG)
    theirs = network(2)
    load(tmp_path / "saved", theirs)
    rounded = weights(theirs)
    for name, tensor in weights(ours).items():
        assert torch.equal(rounded[name], tensor if is_router(name) else tensor.bfloat16().float()), name


@needs_oracle
def test_loads_the_fixture(tmp_path):
    shutil.copytree(ORACLE / "partial_rope", tmp_path / "fixture")
    os.chmod(tmp_path / "fixture", 0o755)
    # config.json is there in transformers' spelling, which cannot say how many dims rotate
    (tmp_path / "fixture" / "config.json").unlink()
    (tmp_path / "fixture" / "config_original.json").rename(tmp_path / "fixture" / "config.json")
    ours = MiniMax(read_config(tmp_path / "fixture"))
    load(tmp_path / "fixture", ours)
    fixture, row, borders = rows_of("partial_rope")
    with torch.no_grad():
        logits = ours.lm_head(ours(row, borders).hidden_TX)
    assert worst(logits, fixture["logits_fp64"].flatten(0, 1)) < 1e-5
    with pytest.raises(CheckpointError, match="rotary_dim: 8, not 16"):
        load(ORACLE / "partial_rope", MiniMax(read_config(tmp_path / "fixture")))


@needs_oracle
def test_saved_loads_in_transformers_with_the_same_logits(tmp_path):
    from transformers import AutoModelForCausalLM

    ours = network_of("full_rope", torch.float32)
    fixture, row, borders = rows_of("full_rope")
    save(tmp_path / "saved", ours.config, ours.named_parameters(), load_tokenizer("bytes"), max_shard_bytes=100_000)
    theirs, report = AutoModelForCausalLM.from_pretrained(tmp_path / "saved", output_loading_info=True)
    assert not report["unexpected_keys"] and not report["mismatched_keys"]
    assert all("decay" in key or "slope" in key for key in report["missing_keys"])
    with torch.no_grad():
        logits = theirs(fixture["input_ids"], use_cache=False).logits
        mine = ours.lm_head(ours(row, borders).hidden_TX).view_as(logits)
    assert worst(logits, fixture["logits_fp64"]) < 1e-5
    assert worst(mine, logits) < 1e-5
    assert theirs.config.eos_token_id == load_tokenizer("bytes").eos_token_id

    # and what transformers writes, buffers included, loads here
    theirs.save_pretrained(tmp_path / "ported")
    assert any("slope_rate" in key for key in load_file(tmp_path / "ported" / "model.safetensors"))
    back = MiniMax(read_config(tmp_path / "ported"))
    load(tmp_path / "ported", back)
    assert same(back, ours)


@needs_release
def test_released_index_maps_onto_the_456b_model():
    config = read_config(RELEASE)
    with torch.device("meta"):
        giant = MiniMax(config)
    index = json.loads((RELEASE / "model.safetensors.index.json").read_text())
    keys, total = [], 0
    for name, parameter in giant.named_parameters():
        for part in pieces(name, tuple(parameter.shape)):
            keys.append(part.key)
            total += part.numel * (4 if is_router(part.key) else 2)
        assert sum(part.numel for part in pieces(name, tuple(parameter.shape))) == parameter.numel()
    assert len(keys) == 8243
    assert set(keys) == index["weight_map"].keys()
    assert total == index["metadata"]["total_size"] == checkpoint_bytes(config)
    assert count_parameters(config).total == sum(p.numel() for p in giant.parameters())
    with pytest.raises(CheckpointError, match="neither model.safetensors nor|not there"):
        load(RELEASE, giant)


def test_reading_holds_one_parameter_beside_what_the_caller_keeps(saved):
    names = [name for name, _ in read(saved)]
    assert names == list(parameter_shapes(CONFIG))
    sizes = {name: math.prod(shape) for name, shape in parameter_shapes(CONFIG).items()}
    for name, tensor in read(saved):
        assert tensor.untyped_storage().nbytes() == 4 * sizes[name]  # owns its memory, no map of the file
