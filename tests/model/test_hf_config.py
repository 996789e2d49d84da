"""config.json of both spellings, and what is refused."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_cispo.configs.schema import ModelConfig
from lightning_cispo.model.hf_config import CheckpointError, differences, from_hf, read_config, to_hf
from tests.model.oracle import FIXTURES, ORACLE, RELEASE, needs_oracle, needs_release


@needs_release
def test_the_release():
    config = read_config(RELEASE)
    assert config.layer_types == [int((i + 1) % 8 == 0) for i in range(80)]
    assert (config.hidden_size, config.head_dim, config.rope_dims, config.postnorm) == (6144, 128, 64, True)
    assert config.attention_alpha(0) == config.attention_alpha(7) == config.mlp_alpha == 160**0.25
    assert to_hf(config)["model_type"] == "minimax_m1"
    released = json.loads((RELEASE / "config.json").read_text())
    written = to_hf(config)
    assert {key: written[key] for key in written.keys() & released.keys()} == {
        key: released[key] for key in written.keys() & released.keys()
    }
    assert len(written.keys() & released.keys()) > 25


@needs_release
@pytest.mark.parametrize("model_type", ["minimax_m1", "minimax_text_01", "MiniMaxM1", "MiniMaxText01"])
def test_text_01_and_m1_are_one_architecture(model_type):
    released = json.loads((RELEASE / "config.json").read_text())
    assert from_hf({**released, "model_type": model_type}) == read_config(RELEASE)


@needs_oracle
@pytest.mark.parametrize("name", FIXTURES)
def test_both_spellings_of_a_fixture(name):
    original = from_hf(json.loads((ORACLE / name / "config_original.json").read_text()))
    ported = from_hf(json.loads((ORACLE / name / "config.json").read_text()))
    # transformers' spelling has no word for rotary_dim
    expected = [] if name == "full_rope" else ["rotary_dim: 8, not 16"]
    assert differences(original, ported) == expected


shapes = st.builds(
    ModelConfig,
    num_hidden_layers=st.integers(1, 9),
    softmax_every=st.integers(1, 9),
    num_attention_heads=st.sampled_from([2, 4, 6]),
    num_key_value_heads=st.sampled_from([1, 2]),
    rotary_dim=st.sampled_from([None, 16, 32]),
    rope_theta=st.sampled_from([1e4, 1e7]),
    postnorm=st.booleans(),
    shared_intermediate_size=st.sampled_from([0, 64]),
    layernorm_mlp_alpha=st.sampled_from([None, 1.0, 2.5]),
    layernorm_full_attention_beta=st.sampled_from([1.0, 0.5]),
    linear_norm_eps=st.sampled_from([1e-6, 1e-5]),
    tie_word_embeddings=st.booleans(),
)


@given(shapes)
@settings(deadline=None)  # the first example imports transformers
def test_written_and_read_is_the_same_function(config):
    raw = json.loads(json.dumps(to_hf(config)))
    assert differences(from_hf(raw), config) == []
    if raw["model_type"] == "minimax":
        from transformers import MiniMaxConfig

        theirs = MiniMaxConfig(**{key: value for key, value in raw.items() if key != "model_type"})
        assert theirs.rope_parameters["rope_theta"] == config.rope_theta
        assert theirs.mlp_alpha_factor == config.mlp_alpha


@pytest.mark.parametrize(
    "changes", [{"rotary_dim": 16}, {"postnorm": False}, {"shared_intermediate_size": 8}, {"num_attention_heads": 6}]
)
def test_what_transformers_would_compute_wrongly_is_not_offered_to_it(changes):
    assert to_hf(ModelConfig(**changes))["model_type"] == "minimax_m1"
    assert to_hf(ModelConfig())["model_type"] == "minimax"


@pytest.mark.parametrize(
    "changes, said",
    [
        ({"model_type": "mixtral"}, "model_type='mixtral' is unknown"),
        ({"model_type": None}, "model_type=None is unknown"),
        ({"hidden_size": None}, "lacks hidden_size"),
        ({"num_hidden_layers": 7}, "8 entries for num_hidden_layers=7"),
        ({"num_key_value_heads": 3}, "num_key_value_heads=3: must divide num_attention_heads=4"),
        ({"num_experts_per_tok": 99}, "more than num_local_experts"),
        ({"hidden_size": "128"}, "hidden_size='128': must be a number"),
        ({"rms_norm_eps": "tiny"}, "rms_norm_eps='tiny': must be a number"),
        ({"rms_norm_eps": -1e-5}, "rms_norm_eps=-1e-05: must be above 0"),
        ({"rms_norm_eps": float("nan")}, "rms_norm_eps=nan: must be above 0"),
        ({"linear_norm_eps": 0.0}, "linear_norm_eps=0.0: must be above 0"),
        ({"rope_parameters": {"rope_type": "default", "rope_theta": 0}}, "rope_theta=0.0: must be above 0"),
        ({"router_jitter_noise": 1.5}, "router_jitter_noise=1.5: must be at least 0 and below 1"),
        ({"shared_intermediate_size": -8}, "shared_intermediate_size=-8: must be at least 0"),
        (
            {"head_dim": None, "hidden_size": 130},
            "num_attention_heads=4 does not divide hidden_size=130",
        ),
        ({"head_dim": 0}, "head_dim=0: must be at least 1"),
        ({"rotary_dim": 33}, "rotary_dim=33: must be even"),
        ({"num_hidden_layers": 0}, "num_hidden_layers=0: must be at least 1"),
        ({"postnorm": 1}, "postnorm=1: must be true or false"),
        ({"hidden_act": "gelu"}, "hidden_act='gelu' (only 'silu')"),
        ({"sliding_window": 4096}, "sliding_window=4096"),
        ({"layer_types": ["linear_attention"] * 7 + ["mamba"]}, "malformed value"),
        ({"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4}}, "rope_type='yarn'"),
        ({"rope_parameters": 7}, "malformed value"),
    ],
)
def test_bad_numbers_are_one_clear_error(changes, said):
    with pytest.raises(CheckpointError) as caught:
        from_hf({**to_hf(ModelConfig()), **changes}, "a/config.json")
    assert str(caught.value).startswith("a/config.json: ")
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text, said", [(None, "no such file"), ("{", "not JSON"), ("[]", "must be a JSON object")])
def test_bad_file(tmp_path, text, said):
    if text is not None:
        (tmp_path / "config.json").write_text(text)
    with pytest.raises(CheckpointError, match=said):
        read_config(tmp_path)


def test_partial_factor_and_top_level_theta_of_other_transformers_versions():
    raw = to_hf(ModelConfig())
    theta = raw.pop("rope_parameters")["rope_theta"]
    assert from_hf({**raw, "rope_theta": theta}).rope_theta == theta
    rope = {"rope_type": "default", "rope_theta": theta, "partial_rotary_factor": 0.5}
    assert from_hf({**raw, "rope_parameters": rope}).rope_dims == 16


def test_imports_no_torch():
    names = "chat, describe, hf_config, layout"
    code = f"import sys; from lightning_cispo.model import {names}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
