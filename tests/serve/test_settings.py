"""The server's command line: one line says what is wrong."""

from __future__ import annotations

import json
import math

import pytest

from lightning_cispo.configs.errors import ConfigError
from lightning_cispo.configs.schema import ServeConfig
from lightning_cispo.model.serve.__main__ import build, settings


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "checkpoint=null: name a folder"),
        (["runs/x"], "runs/x: settings are written key=value"),
        (["chekpoint=x"], "chekpoint=x: unknown key; there are checkpoint, tokenizer"),
        (["checkpoint=x", "slots=many"], "slots: "),
        (["checkpoint=x", "slots=0"], "slots=0: must be at least 1"),
        (["checkpoint=x", "kv_tokens=-1"], "kv_tokens=-1: must be at least 0"),
        (["checkpoint=x", "repetition_tokens=0"], "repetition_tokens=0: must be at least 1"),
        (["checkpoint=x", "repetition_probability=0"], "repetition_probability=0.0: must be above 0 and at most 1"),
        (["checkpoint=x", "port=70000"], "port=70000: must be at most 65535"),
        (["checkpoint=x", "precision=int3"], "precision: "),
    ],
)
def test_wrong_settings(arguments, message):
    with pytest.raises(ConfigError) as refused:
        settings(arguments)
    assert str(refused.value).startswith(message) and "\n" not in str(refused.value)


def test_loopback_is_the_default():
    assert settings(["checkpoint=x"]) == ServeConfig(checkpoint="x")
    assert ServeConfig().host == "127.0.0.1"


def test_checkpoints_that_cannot_be_served(tmp_path, checkpoint_folder):
    with pytest.raises(ConfigError, match="no such folder"):
        build(ServeConfig(checkpoint=str(tmp_path / "nowhere")))
    config = json.loads((checkpoint_folder / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"model_type": "llama"}))
    with pytest.raises(ConfigError, match="llama"):
        build(ServeConfig(checkpoint=str(tmp_path), tokenizer="bytes"))
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ConfigError):
        build(ServeConfig(checkpoint=str(tmp_path), tokenizer="bytes"))


def test_a_tokenizer_larger_than_the_vocabulary(tmp_path, checkpoint_folder):
    config = json.loads((checkpoint_folder / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"vocab_size": 200}))
    with pytest.raises(ConfigError) as refused:
        build(ServeConfig(checkpoint=str(tmp_path), tokenizer="bytes"))
    assert str(refused.value) == "tokenizer=bytes: has 264 tokens, the checkpoint's vocabulary 200"


def test_the_repetition_rule_reaches_the_engine(checkpoint_folder):
    config = ServeConfig(str(checkpoint_folder), "bytes", repetition_tokens=7, repetition_probability=0.5)
    sampler = build(config).runner.engine.sampler
    assert sampler.repetition_tokens == 7 and sampler.repetition_logprob == pytest.approx(math.log(0.5))


def test_a_runs_newest_checkpoint_is_found(tmp_path, checkpoint_folder):
    for step in ("step-000001", "step-000010"):
        (tmp_path / "checkpoints" / step).mkdir(parents=True)
        (tmp_path / "checkpoints" / step / "state.json").write_text("{}")
    (tmp_path / "checkpoints" / "step-000010" / "model").symlink_to(checkpoint_folder)
    server = build(ServeConfig(checkpoint=str(tmp_path), slots=2, max_length=64))
    assert server.runner.engine.max_length == 64
