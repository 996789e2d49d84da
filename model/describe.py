"""How large a model is, from its config alone: parameters, bytes, FLOPs. Imports no torch.

    python -m model.describe model=minimax_m1
    python -m model.describe model=small num_local_experts=32 zero_stage=3 world_size=8
    python -m model.describe checkpoint=path/to/folder
"""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from configs.schema import LIGHTNING, SOFTMAX, ModelConfig, ModelSection
from model.hf_config import read_config
from model.layout import is_router, parameter_shapes

GROUPS = Path(__file__).parent.parent / "configs" / "model"


@dataclass(frozen=True)
class Counts:
    total: int
    active: int  # read for one token, without embedding and LM head, as the M1 report counts its 45.9B


def count_parameters(config: ModelConfig) -> Counts:
    sizes = {name: math.prod(shape) for name, shape in parameter_shapes(config).items()}
    total = sum(sizes.values())
    experts = sum(size for name, size in sizes.items() if ".experts." in name)
    idle = experts // config.num_local_experts * (config.num_local_experts - config.num_experts_per_tok)
    outside = sum(size for name, size in sizes.items() if name in ("model.embed_tokens.weight", "lm_head.weight"))
    return Counts(total, total - idle - outside)


def checkpoint_bytes(config: ModelConfig, itemsize: int = 2) -> int:
    """Bytes of all tensors on disk: `itemsize` a number, 4 for the router's."""
    shapes = parameter_shapes(config).items()
    return sum(math.prod(shape) * (4 if is_router(name) else itemsize) for name, shape in shapes)


def state_bytes(config: ModelConfig) -> int:
    """Lightning state of one sequence of any length, float32."""
    return config.layer_types.count(LIGHTNING) * config.num_attention_heads * config.head_dim**2 * 4


def kv_bytes(config: ModelConfig, tokens: int = 1, itemsize: int = 2) -> int:
    """Keys and values of one sequence."""
    layers = config.layer_types.count(SOFTMAX)
    return layers * 2 * config.num_key_value_heads * config.head_dim * itemsize * tokens


def flops_per_token(config: ModelConfig, length: int) -> int:
    """Forward FLOPs of the token that `length` tokens precede: two a multiplication and addition.

    Matrix products with every active weight and the LM head; 6 D^2 a head for decaying, adding to and reading a
    lightning state; 4 D a head and preceding token in a softmax layer. Norms, RoPE and activations are left out.
    """
    heads, dim = config.num_attention_heads, config.head_dim
    matmul = 2 * (count_parameters(config).active + config.vocab_size * config.hidden_size)
    lightning = config.layer_types.count(LIGHTNING) * heads * 6 * dim**2
    return matmul + lightning + config.layer_types.count(SOFTMAX) * heads * 4 * dim * length


def deepseek_r1_flops_per_token(length: int) -> int:
    """The same count for DeepSeek-R1, as a yardstick.

    Assumes 37B active parameters and 61 layers of 128 heads with 192 dims in q.k and 128 in the values (DeepSeek-V3
    report, arXiv 2412.19437), keys and values expanded; decoding in the absorbed form costs 3.4 times that attention,
    to save bandwidth.
    """
    return 2 * 37_000_000_000 + 61 * 128 * 2 * (192 + 128) * length


@dataclass(frozen=True)
class TrainingBytes:
    """Bytes one device holds through training, activations not counted."""

    parameters: int
    gradients: int
    optimizer: int  # Adam's two moments and, with ZeRO, the float32 copy it steps on

    @property
    def total(self) -> int:
        return self.parameters + self.gradients + self.optimizer


def training_bytes(config: ModelConfig, world_size: int = 1, zero_stage: int = 0) -> TrainingBytes:
    """Float32 parameters, gradients and Adam state on one of `world_size` devices.

    ZeRO cuts the optimizer state from stage 1, gradients from 2, parameters from 3.
    """
    whole = 4 * count_parameters(config).total
    share = -(-whole // world_size)
    return TrainingBytes(
        parameters=share if zero_stage >= 3 else whole,
        gradients=share if zero_stage >= 2 else whole,
        optimizer=3 * share if zero_stage >= 1 else 2 * whole,
    )


def describe(config: ModelConfig, world_size: int = 1) -> str:
    """Everything above as a table for people."""
    counts = count_parameters(config)
    kinds = config.layer_types
    lines = [
        f"layers                {len(kinds)} ({kinds.count(LIGHTNING)} lightning, {kinds.count(SOFTMAX)} softmax)",
        f"parameters            {counts.total:,} ({_short(counts.total)})",
        f"active per token      {counts.active:,} ({_short(counts.active)}, without embedding and LM head)",
        f"checkpoint, bf16      {_bytes(checkpoint_bytes(config))}",
        f"lightning state       {_bytes(state_bytes(config))} a sequence, float32",
        f"keys and values       {_bytes(kv_bytes(config))} a token, bf16",
        "",
        f"training state on each of {world_size} device(s), float32 with Adam, activations not counted",
    ]
    for stage in range(4):
        need = training_bytes(config, world_size, stage)
        lines.append(
            f"  ZeRO {stage}   {_bytes(need.total):>10}   (parameters {_bytes(need.parameters)}, "
            f"gradients {_bytes(need.gradients)}, optimizer {_bytes(need.optimizer)})"
        )
    return "\n".join([*lines, "", *_flops_table(config)])


def _flops_table(config: ModelConfig) -> list[str]:
    """FLOPs at growing lengths, beside DeepSeek-R1's: at a position, and as the mean over all positions up to it."""
    lines = ["FLOPs a generated token    at this length   of R1's   mean up to it   of R1's"]
    for length in (1_000, 8_000, 32_000, 64_000, 100_000, 1_000_000):
        at, mean = flops_per_token(config, length), flops_per_token(config, length // 2)
        of_at, of_mean = at / deepseek_r1_flops_per_token(length), mean / deepseek_r1_flops_per_token(length // 2)
        lines.append(f"  {length:>9,}              {_short(at):>14} {of_at:>9.2%} {_short(mean):>15} {of_mean:>9.2%}")
    lines.append("R1: 37B active parameters, 61 layers x 128 heads x 2 x (192 + 128) FLOPs a preceding token")
    return lines


def _short(number: float) -> str:
    for unit, size in (("T", 1e12), ("B", 1e9), ("M", 1e6), ("K", 1e3)):
        if number >= size:
            return f"{number / size:.2f}{unit}"
    return f"{number:.0f}"


def _bytes(number: float) -> str:
    for unit, size in (("TiB", 2**40), ("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if number >= size:
            return f"{number / size:.2f} {unit}"
    return f"{number:.0f} B"


def parse_arguments(arguments: list[str]) -> tuple[ModelConfig, int]:
    """The config named by `model=<group>` or `checkpoint=<folder>` with `key=value` changes, and `world_size`.

    Raises: ValueError naming the argument.
    """
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    wrong = [argument for argument in arguments if "=" not in argument]
    if wrong:
        raise ValueError(f"{wrong[0]}: arguments are written key=value")
    given: dict[str, str] = dict(argument.split("=", 1) for argument in arguments)  # type: ignore[misc]
    group, folder = given.pop("model", "tiny"), given.pop("checkpoint", None)
    world_size = given.pop("world_size", "1")
    if not world_size.isdigit() or int(world_size) < 1:
        raise ValueError(f"world_size={world_size}: must be at least 1")
    changes = OmegaConf.from_dotlist([f"{key.removeprefix('model.')}={value}" for key, value in given.items()])
    if folder is None and not (GROUPS / f"{group}.yaml").exists():
        known = ", ".join(sorted(path.stem for path in GROUPS.glob("*.yaml") if path.stem != "checkpoint"))
        raise ValueError(f"model={group}: no such model; there are {known}")
    try:
        base: Any = read_config(folder) if folder else OmegaConf.load(GROUPS / f"{group}.yaml")
        merged = OmegaConf.merge(OmegaConf.structured(ModelSection), base if not folder else vars(base), changes)
        config: Any = OmegaConf.to_object(merged)
    except OmegaConfBaseException as error:
        raise ValueError(str(error).splitlines()[0]) from None
    if config.from_checkpoint and folder is None:
        raise ValueError("model=checkpoint: add checkpoint=<folder>")
    if problems := config.problems():
        raise ValueError("; ".join(problems))
    return config, int(world_size)


if __name__ == "__main__":
    try:
        print(describe(*parse_arguments(sys.argv[1:])))
    except ValueError as wrong:
        sys.exit(f"model.describe: {wrong}")
