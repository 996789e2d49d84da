"""Checks that look at files, tokenizers and task families, and start nothing.

The cheap ones come first, and each imports what it needs: torch and transformers load only for a configuration that has
passed all others.
"""

from __future__ import annotations

import importlib.util
import tempfile
from dataclasses import asdict
from pathlib import Path

from lightning_cispo.configs.errors import ConfigError
from lightning_cispo.configs.schema import ModelConfig, RunConfig, TrackingMode
from lightning_cispo.model.folders import weights_folder
from lightning_cispo.model.hf_config import CheckpointError, differences, read_config
from lightning_cispo.train.check_data import check_enough, check_files, check_tasks
from lightning_cispo.train.check_machine import beyond_machine, has_gpu
from lightning_cispo.train.resume import check_best, check_resume, check_whole
from lightning_cispo.train.weights import network_config, tokenizer_name

# What the programs of this room need beyond a light installation.
PACKAGES = ("numpy", "torch", "deepspeed", "ray", "transformers", "datasets")


def preflight_training(config: RunConfig) -> None:
    """`preflight` for what trains: this machine must hold the learner, and the data enough prompts for a step."""
    preflight(config, trains=True)


def preflight(config: RunConfig, trains: bool = False) -> None:
    """Raises ConfigError with one line that names the key, for whatever a run would otherwise stumble over.

    Settles what `config` leaves to the machine: learner.world_size=0.
    """
    _check_runs_dir(config)
    _check_tracking(config)
    check_resume(config)
    check_best(config)
    shape = _checked_shape(config)
    _check_tokenizer_name(config, shape)
    _check_offload(config)
    _check_judge(config)
    _check_language(config)
    if not config.cluster.address and not config.dry_run:  # a plan may be of another machine
        for wrong in beyond_machine(config, shape, trains):
            raise ConfigError(wrong)
    if config.cluster.address:
        from lightning_cispo.train.cluster.session import check_address

        check_address(config.cluster.address)
    check_files(config)
    check_tasks(config)
    _check_vocabulary(config, shape)
    if trains:
        check_enough(config)
    _check_devices(config)
    check_whole(config)


def _check_runs_dir(config: RunConfig) -> None:
    """Proven by a file that lives for a moment in the nearest folder that exists."""
    target = Path(config.runs_dir) / config.name
    nearest = next(parent for parent in (target, *target.absolute().parents) if parent.exists())
    try:
        tempfile.TemporaryFile(dir=nearest).close()  # without a name: nothing is left if the program is killed now
    except OSError as error:
        raise ConfigError(f"runs_dir={config.runs_dir}: cannot write to {nearest}: {error.strerror}") from None


def _check_tracking(config: RunConfig) -> None:
    mode = config.tracking.mode
    if mode != TrackingMode.disabled and importlib.util.find_spec("wandb") is None:
        raise ConfigError(f"tracking.mode={mode.value}: wandb is not installed; tracking.mode=disabled does without")


def _checked_shape(config: RunConfig) -> ModelConfig:
    """The network's shape; a checkpoint must be there and have the same."""
    if config.checkpoint is None:
        return network_config(config)
    try:
        stored = read_config(weights_folder(config.checkpoint))
    except CheckpointError as error:
        raise ConfigError(f"checkpoint={config.checkpoint}: {error}") from None
    wrong = [] if config.model.from_checkpoint else differences(config.model, stored)
    if wrong:
        raise ConfigError(
            f"checkpoint={config.checkpoint}: has another shape than model ({'; '.join(wrong)}); "
            "model=checkpoint takes the checkpoint's"
        )
    if not config.dry_run and not config.resume:  # a plan needs no weights, and a resumed run loads its own
        from lightning_cispo.model.shard_check import checked_reader

        try:
            checked_reader(weights_folder(config.checkpoint), stored, "np")
        except CheckpointError as error:
            raise ConfigError(f"checkpoint={config.checkpoint}: {error}") from None
    return network_config(config)


def _check_tokenizer_name(config: RunConfig, model: ModelConfig) -> None:
    """What can be said of a tokenizer without loading it."""
    name = tokenizer_name(config)
    if name.startswith(("/", ".", "~")) and not Path(name).is_dir():
        raise ConfigError(f"data.tokenizer={config.data.tokenizer}: {name}: no such folder")
    from lightning_cispo.model.tokenizer import BYTES, BYTES_SIZE

    if name == BYTES:
        _check_size(config, BYTES_SIZE, model)


def _check_size(config: RunConfig, tokens: int, model: ModelConfig) -> None:
    if tokens > model.vocab_size:
        raise ConfigError(
            f"model.vocab_size={model.vocab_size}: data.tokenizer={config.data.tokenizer} has {tokens} tokens"
        )


def _check_vocabulary(config: RunConfig, model: ModelConfig) -> None:
    from lightning_cispo.model.tokenizer import TokenizerError, encode, load_tokenizer

    try:
        tokenizer = load_tokenizer(tokenizer_name(config))
    except TokenizerError as error:
        raise ConfigError(f"data.tokenizer={config.data.tokenizer}: {error}") from None
    _check_size(config, len(tokenizer), model)
    sampling = config.sampling
    closing = len(encode(tokenizer, sampling.closing_text)) if sampling.thinking_tokens else 0
    if sampling.thinking_tokens + closing >= sampling.max_tokens:
        raise ConfigError(
            f"sampling.thinking_tokens={sampling.thinking_tokens}: with the {closing} tokens of sampling.closing_text "
            f"it leaves nothing of sampling.max_tokens={sampling.max_tokens} to answer in"
        )


def _check_language(config: RunConfig) -> None:
    from lightning_cispo.rewards.rules import check_language

    if wrong := check_language(config.rewards.language):
        raise ConfigError(f"rewards.language={config.rewards.language}: {wrong}")


def _check_judge(config: RunConfig) -> None:
    """Also where no endpoint is named, so that a wrong template is told of as soon as it is written."""
    judge = config.rewards.judge
    if not judge.url and not judge.template:
        return
    from lightning_cispo.rewards.judge_options import check_judge

    if wrong := check_judge({**asdict(judge), "url": judge.url or "http://localhost/v1"}):
        raise ConfigError(f"rewards.judge.{wrong}")


def _check_offload(config: RunConfig) -> None:
    if config.learner.offload and not config.cluster.address and gpu_count() == 0:
        raise ConfigError("learner.offload=true: there is no GPU here whose memory it would spare")


def gpu_count() -> int:
    """GPUs that this process may use. Loads torch only where the system has a device file of one."""
    if not has_gpu():
        return 0
    import torch

    return torch.cuda.device_count()


def _check_devices(config: RunConfig) -> None:
    if config.cluster.address:  # its machines are not looked at
        config.learner.world_size = config.learner.world_size or 2
        return
    gpus, ranks = gpu_count(), config.learner.world_size
    config.learner.world_size = ranks or (1 if gpus == 1 else 2)
    if 0 < gpus < ranks:
        raise ConfigError(f"learner.world_size={ranks}: a rank needs a GPU of its own, and here are {gpus}")
