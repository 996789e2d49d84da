"""`config.json` in both spellings, the release's and transformers', to and from `ModelConfig`. Imports no torch.

transformers' `minimax` has no words for partial RoPE, pre-norm, a shared expert or the lightning norm's eps, and its
slopes differ for head counts that aren't powers of two. A shape it would compute wrongly is written in the release's
spelling, which transformers refuses by name instead.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from lightning_cispo.configs.schema import LIGHTNING, SOFTMAX, ModelConfig

ORIGINAL_TYPES = ("minimax_m1", "minimax_text_01", "MiniMaxM1", "MiniMaxText01")
TRANSFORMERS_TYPE = "minimax"
_LAYER_TYPES = {"linear_attention": LIGHTNING, "full_attention": SOFTMAX}
_SHAPE = (
    "vocab_size hidden_size intermediate_size num_hidden_layers num_attention_heads "
    "num_local_experts num_experts_per_tok"
).split()
_PLAIN = (  # named alike in both, with a default in both
    "rms_norm_eps router_aux_loss_coef router_jitter_noise max_position_embeddings initializer_range "
    "tie_word_embeddings"
).split()
_EXTRA = "rotary_dim linear_norm_eps postnorm shared_intermediate_size".split()  # no word for these in transformers'
_SCALES = {  # ours: transformers'
    f"layernorm_{ours}_{factor}": f"{theirs}_{factor}_factor"
    for ours, theirs in (("full_attention", "full_attn"), ("linear_attention", "linear_attn"), ("mlp", "mlp"))
    for factor in ("alpha", "beta")
}
_ONLY = {"hidden_act": "silu", "attention_dropout": 0.0, "sliding_window": None, "rope_scaling": None}


class CheckpointError(ValueError):
    """A checkpoint or its config.json is unusable; the message says what is wrong with which file."""


def read_config(folder: str | Path) -> ModelConfig:
    """The shape of the checkpoint in `folder`.

    Raises: CheckpointError for a missing or malformed file, an unknown model_type, missing or contradictory numbers.
    """
    path = Path(folder) / "config.json"
    try:
        raw = json.loads(path.read_text())
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such file") from None
    except NotADirectoryError:
        raise CheckpointError(f"{folder}: a file; must be the folder that holds config.json") from None
    except OSError as error:
        raise CheckpointError(f"{path}: {error.strerror}") from None
    except ValueError as error:
        raise CheckpointError(f"{path}: not JSON: {error}") from None
    if not isinstance(raw, dict):
        raise CheckpointError(f"{path}: must be a JSON object")
    return from_hf(raw, str(path))


def from_hf(raw: dict[str, Any], source: str = "config.json") -> ModelConfig:
    """ModelConfig of a parsed config.json in either spelling. Keys that don't shape the network are passed over."""
    kind = raw.get("model_type")
    if kind not in (*ORIGINAL_TYPES, TRANSFORMERS_TYPE):
        known = ", ".join((*ORIGINAL_TYPES[:2], TRANSFORMERS_TYPE))
        raise CheckpointError(f"{source}: model_type={kind!r} is unknown; known are {known}")
    original = kind != TRANSFORMERS_TYPE
    given = {key: value for key, value in raw.items() if value is not None}
    layers_key, rope_key = ("attn_type_list", "rope_theta") if original else ("layer_types", "rope_parameters")
    missing = [key for key in (*_SHAPE, layers_key) if key not in given]
    if "rope_theta" not in given and rope_key not in given:
        missing.append(rope_key)
    if missing:
        raise CheckpointError(f"{source}: lacks {', '.join(missing)}")
    unsupported = [f"{k}={raw[k]!r} (only {v!r})" for k, v in _ONLY.items() if k in raw and raw[k] not in (v, None)]
    if given.get("shared_intermediate_size") and given.get("shared_moe_mode", "sigmoid") != "sigmoid":
        unsupported.append(f"shared_moe_mode={given['shared_moe_mode']!r} (only 'sigmoid')")

    fields = {key: given[key] for key in (*_SHAPE, *_PLAIN, *_EXTRA) if key in given}
    fields.setdefault("postnorm", not original)
    fields["num_key_value_heads"] = given.get("num_key_value_heads", given["num_attention_heads"])
    fields.update({ours: given.get(ours if original else theirs, 1.0) for ours, theirs in _SCALES.items()})
    try:
        fields["head_dim"] = given["head_dim"] if "head_dim" in given else _equal_heads(given, unsupported)
        fields["attn_type_list"] = given[layers_key] if original else [_LAYER_TYPES[x] for x in given[layers_key]]
        fields.update(_rope(given, fields["head_dim"], unsupported))
        config = ModelConfig(**fields)
        problems = unsupported + _wrong_types(config) or config.problems()
    except (TypeError, ValueError, KeyError, AttributeError, ZeroDivisionError) as error:
        raise CheckpointError(f"{source}: malformed value: {type(error).__name__}: {error}") from None
    if problems:
        raise CheckpointError(f"{source}: " + "; ".join(problems))
    return config


def _equal_heads(given: dict[str, Any], unsupported: list[str]) -> int:
    """What a config that leaves head_dim out means by it."""
    width, heads = given["hidden_size"], given["num_attention_heads"]
    if width % heads:
        unsupported.append(f"head_dim: is missing, and num_attention_heads={heads} does not divide hidden_size={width}")
    return width // heads


def _rope(given: dict[str, Any], head_dim: int, unsupported: list[str]) -> dict[str, Any]:
    rope = given.get("rope_parameters", {})
    if rope.get("rope_type", "default") != "default":
        unsupported.append(f"rope_type={rope['rope_type']!r} (only 'default')")
    found = {"rope_theta": float(rope.get("rope_theta", given.get("rope_theta")))}
    if "rotary_dim" not in given:
        found["rotary_dim"] = int(head_dim * rope.get("partial_rotary_factor", 1.0))
    return found


def _wrong_types(config: ModelConfig) -> list[str]:
    """Fields whose JSON value has another type than the schema's default."""
    found = []
    for key, default in vars(ModelConfig()).items():
        value = getattr(config, key)
        wanted: tuple[type, ...] = (float, int) if isinstance(default, float) or "alpha" in key else (int,)
        if isinstance(default, bool):
            good = isinstance(value, bool)
        elif key == "attn_type_list":
            good = isinstance(value, list) and all(type(x) is int for x in value)
        else:
            good = isinstance(value, wanted) and not isinstance(value, bool)
        if not good:
            found.append(f"{key}={value!r}: must be {'true or false' if isinstance(default, bool) else 'a number'}")
    return found


def transformers_agrees(config: ModelConfig) -> bool:
    """Whether transformers' port computes this shape as the released code does."""
    plain = config.rope_dims == config.head_dim and config.postnorm and not config.shared_intermediate_size
    heads = config.num_attention_heads
    return plain and config.linear_norm_eps == 1e-6 and heads & (heads - 1) == 0


def to_hf(config: ModelConfig, bos_token_id: int | None = None, eos_token_id: int | None = None) -> dict[str, Any]:
    """config.json: in transformers' spelling where transformers computes this shape rightly, else in the release's."""
    scales = {
        "layernorm_full_attention_alpha": _first_alpha(config, SOFTMAX),
        "layernorm_full_attention_beta": config.layernorm_full_attention_beta,
        "layernorm_linear_attention_alpha": _first_alpha(config, LIGHTNING),
        "layernorm_linear_attention_beta": config.layernorm_linear_attention_beta,
        "layernorm_mlp_alpha": config.mlp_alpha,
        "layernorm_mlp_beta": config.layernorm_mlp_beta,
    }
    shared = {key: getattr(config, key) for key in (*_SHAPE, "num_key_value_heads", "head_dim", *_PLAIN)}
    shared |= {"hidden_act": "silu", "bos_token_id": bos_token_id, "eos_token_id": eos_token_id}
    if transformers_agrees(config):
        names = {kind: name for name, kind in _LAYER_TYPES.items()}
        return shared | {
            "architectures": ["MiniMaxForCausalLM"],
            "model_type": TRANSFORMERS_TYPE,
            "layer_types": [names[kind] for kind in config.layer_types],
            "rope_parameters": {"rope_type": "default", "rope_theta": config.rope_theta},
            **{_SCALES[key]: value for key, value in scales.items()},
        }
    return shared | {
        "architectures": ["MiniMaxM1ForCausalLM"],
        "model_type": "minimax_m1",
        "attn_type_list": config.layer_types,
        "rope_theta": config.rope_theta,
        "rotary_dim": config.rope_dims,
        "linear_norm_eps": config.linear_norm_eps,
        "postnorm": config.postnorm,
        "shared_intermediate_size": config.shared_intermediate_size,
        "shared_moe_mode": "sigmoid",
        **scales,
    }


def _first_alpha(config: ModelConfig, kind: int) -> float:
    layers = config.layer_types
    return config.attention_alpha(layers.index(kind)) if kind in layers else 1.0


def differences(ours: ModelConfig, theirs: ModelConfig) -> list[str]:
    """Keys in which two configs define different functions, as `key: ours, theirs`; empty when weights fit both."""
    one, other = _function(ours), _function(theirs)
    return [f"{key}: {one[key]}, not {other[key]}" for key in one if one[key] != other[key]]


def _function(config: ModelConfig) -> dict[str, Any]:
    plain = "num_key_value_heads head_dim rms_norm_eps tie_word_embeddings rope_theta".split()
    found = {key: getattr(config, key) for key in (*_SHAPE, *plain, *_EXTRA)}
    found |= {"attn_type_list": config.layer_types, "rotary_dim": config.rope_dims}
    scales = to_hf(config)
    for ours, theirs in _SCALES.items():
        found[ours] = scales.get(ours, scales.get(theirs))
    return found
