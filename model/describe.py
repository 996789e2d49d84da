"""How large a model is, from its config alone. Imports no torch.

cispo describe model=minimax_m1
cispo describe model=small num_local_experts=32 world_size=8
cispo describe checkpoint=path/to/folder
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning_cispo.configs.schema import LIGHTNING, SOFTMAX, ModelConfig, ModelSection
from lightning_cispo.model.hf_config import read_config
from lightning_cispo.model.sizes import (
    checkpoint_bytes,
    count_parameters,
    deepseek_r1_flops_per_token,
    flops_per_token,
    kv_bytes,
    state_bytes,
    training_bytes,
)

GROUPS = Path(__file__).parent.parent / "configs" / "model"


def describe(config: ModelConfig, world_size: int = 1) -> str:
    """Sizes, training memory and FLOPs as a table for people."""
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
        f"training state on each of {world_size} device(s), float32 with Adam, without activations and buckets",
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
    lines.append("forward: 2 a multiply-add of active weights and head; a lightning head 6 D^2; softmax 4 D a token")
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


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table. `arguments` are those of the command line unless given. Exit code 2: a bad argument."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if {"-h", "--help"} & set(given):
        print(_usage())
        return 0
    try:
        print(describe(*parse_arguments(given)))
    except ValueError as wrong:
        print(f"error: {wrong}", file=sys.stderr)
        return 2
    return 0


def _usage() -> str:
    names = [path.stem for path in sorted(GROUPS.glob("*.yaml")) if path.stem != "checkpoint"]
    lines = ["usage: cispo describe [model=NAME | checkpoint=FOLDER] [world_size=N] [key=value ...]", ""]
    lines += [f"  model={'|'.join(names)}", "  checkpoint=FOLDER   in Hugging Face's format", "  world_size=1"]
    lines += [f"  {key}=" for key in vars(ModelSection())]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
