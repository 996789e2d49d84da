"""Values and combinations that cannot work. Types and names are the schema's business."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterator

from lightning_cispo.configs.errors import ConfigError
from lightning_cispo.configs.limits import beyond_limits, not_finite
from lightning_cispo.configs.schema import (
    LEAST_TEMPERATURE,
    MOST_STOP_BYTES,
    Anchor,
    OptimizerConfig,
    PromptStyle,
    RunConfig,
    stop_bytes,
)

# Ray refuses an object store below 75 MiB.
_MIN_OBJECT_STORE_MB = 80


def check(config: RunConfig, trains: bool = True) -> None:
    """Raises ConfigError at the first contradiction; evaluation alone needs no data to train on."""
    if not config.data.tasks and not config.data.train and (trains or not config.data.eval):
        key = "data.train" if trains else "data.eval"
        raise ConfigError(
            f"{key}=null: name a .jsonl, .json, .parquet or .csv file or a hub dataset, or give data.tasks"
        )
    for problem in problems(config, trains):
        raise ConfigError(problem)
    if trains and (cut := _cut_distribution(config)):
        raise ConfigError(cut)


def problems(config: RunConfig, trains: bool = True) -> Iterator[str]:
    """Everything that is wrong, one line each, naming the key and what would be right."""
    yield from beyond_limits(config)
    yield from _run(config)
    yield from _ranges(config)
    yield from _algorithm(config)
    yield from _optimizer("optimizer", config.optimizer)
    yield from _optimizer("warm_start.optimizer", config.warm_start.optimizer)
    yield from _data(config, trains)
    yield from _sampling(config)
    yield from _rewards(config)
    yield from _system(config)
    yield from not_finite(config)


def _run(config: RunConfig) -> Iterator[str]:
    if config.model.from_checkpoint:
        if config.checkpoint is None:
            yield "model.from_checkpoint=true: add checkpoint=<folder>"
    else:
        yield from (f"model.{problem}" for problem in config.model.problems())


def _ranges(config: RunConfig) -> Iterator[str]:
    at_least = {
        0: "data.overlap_words "
        "seed steps warm_start.steps evaluation.problems evaluation.every learner.threads rollout.threads "
        "rollout.max_restarts checkpoints.every tracking.traces "
        "rewards.correct_weight rewards.format_weight rewards.overlong_weight "
        "rewards.box_weight rewards.tools_weight rewards.language_weight rewards.length_weight "
        "rewards.length_min_tokens rewards.length_max_tokens rewards.overlong_cache_tokens algorithm.max_refills "
        "rewards.processes rewards.judge.retries rewards.judge.backoff_s rewards.judge.cache "
        "sampling.top_k sampling.min_tokens sampling.thinking_tokens rollout.kv_tokens learner.world_size",
        1: "algorithm.prompts_per_step algorithm.updates_per_step warm_start.batch_size sampling.max_tokens "
        "sampling.repetition_tokens data.max_prompt_tokens evaluation.samples learner.max_skipped_updates "
        "learner.micro_batch_tokens rollout.workers rollout.slots rollout.prefill_tokens "
        "checkpoints.keep tracking.traces_mb "
        "rewards.memory_mb rewards.max_queue rewards.judge.budget "
        "rewards.judge.concurrency rewards.judge.max_tokens",
        10: "rewards.judge.bias_window",
        64: "rewards.code.memory_mb",
        2: "algorithm.group_size",
        _MIN_OBJECT_STORE_MB: "cluster.object_store_mb",
    }
    for least, keys in at_least.items():
        for key in keys.split():
            value = _value(config, key)
            if not value >= least:
                yield f"{key}={value}: must be at least {least}"
    if (value := config.evaluation.temperature) != 0 and not LEAST_TEMPERATURE <= value < math.inf:
        yield f"evaluation.temperature={value}: must be 0 (greedy) or at least {LEAST_TEMPERATURE}"
    if not LEAST_TEMPERATURE <= config.sampling.temperature < math.inf:
        yield f"sampling.temperature={config.sampling.temperature}: must be at least {LEAST_TEMPERATURE}"
    for key in (
        "rewards.timeout_s",
        "rewards.code.timeout_s",
        "rewards.code.total_timeout_s",
        "rewards.judge.timeout_s",
    ):
        value = _value(config, key)
        if not 0 < value < math.inf:
            yield f"{key}={value}: must be above 0"
    if not 0 <= config.checkpoints.every_minutes < math.inf:
        yield f"checkpoints.every_minutes={config.checkpoints.every_minutes}: must be at least 0"
    if not 0 <= config.rollout.wait_for_verifier_s < math.inf:
        yield f"rollout.wait_for_verifier_s={config.rollout.wait_for_verifier_s}: must be at least 0"
    for key in (
        "sampling.repetition_probability",
        "warm_start.direct_fraction",
        "rewards.judge.bias_threshold",
        "rollout.max_unjudged",
    ):
        value = _value(config, key)
        if not 0 <= value <= 1:
            yield f"{key}={value}: must be between 0 and 1"


def _algorithm(config: RunConfig) -> Iterator[str]:
    options = config.algorithm
    prompts, updates = options.prompts_per_step, options.updates_per_step
    if prompts >= 1 and updates >= 1 and prompts % updates:
        near = [size for size in (prompts // updates * updates, -(-prompts // updates) * updates) if size]
        yield (
            f"algorithm.prompts_per_step={prompts}: must be a multiple of algorithm.updates_per_step={updates}, "
            f"such as {' or '.join(map(str, near))}"
        )
    responses = prompts // max(1, updates) * options.group_size
    if responses < config.learner.world_size:
        yield (
            f"learner.world_size={config.learner.world_size}: an update has only {responses} responses "
            "(algorithm.prompts_per_step / algorithm.updates_per_step * algorithm.group_size), fewer than ranks"
        )
    if not 0 <= options.is_weight_min <= options.is_weight_max or not 0 < options.is_weight_max:
        yield (
            f"algorithm.is_weight_min={options.is_weight_min}: must lie between 0 and "
            f"algorithm.is_weight_max={options.is_weight_max}"
        )
    if options.truncated_is_max is not None:
        if options.anchor is Anchor.sampler:
            yield (
                f"algorithm.truncated_is_max={options.truncated_is_max}: with algorithm.anchor=sampler the ratio "
                "already holds the sampler's mismatch and would count it twice; set algorithm.anchor=learner"
            )
        if not options.truncated_is_max > 0:
            yield f"algorithm.truncated_is_max={options.truncated_is_max}: must be above 0"
    if not 0 <= options.eps_low <= 1:
        yield f"algorithm.eps_low={options.eps_low}: must be between 0 and 1"
    if not options.eps_high >= 0:
        yield f"algorithm.eps_high={options.eps_high}: must be at least 0"
    if options.max_refills and not options.dynamic_sampling:
        yield (
            f"algorithm.max_refills={options.max_refills}: refills replace groups that dynamic sampling drops; "
            "set algorithm.dynamic_sampling=true or algorithm.max_refills=0"
        )


def _optimizer(section: str, options: OptimizerConfig) -> Iterator[str]:
    for name in ("lr", "weight_decay", "warmup_updates"):
        if not 0 <= getattr(options, name) < math.inf:
            yield f"{section}.{name}={getattr(options, name)}: must be at least 0"
    for name in ("beta1", "beta2"):
        if not 0 <= getattr(options, name) < 1:
            yield f"{section}.{name}={getattr(options, name)}: must be at least 0 and below 1"
    for name in ("eps", "grad_clip"):
        if not getattr(options, name) > 0:
            yield f"{section}.{name}={getattr(options, name)}: must be above 0"


def _data(config: RunConfig, trains: bool) -> Iterator[str]:
    data = config.data
    if data.tasks and data.train:
        yield f"data.train={', '.join(data.train)}: data.tasks is set too; choose one, for instance by data.tasks=[]"
    if data.prompt_style is PromptStyle.compact and (data.train or data.eval):
        yield "data.prompt_style=compact: only generated problems have a compact form; set data.prompt_style=question"
    for index, task in enumerate(data.tasks):
        if not 0 < task.weight < math.inf:
            yield f"data.tasks.{index}.weight={task.weight}: must be above 0"
    if not 0 <= data.held_out_percent <= 99:
        yield f"data.held_out_percent={data.held_out_percent}: must be between 0 and 99"
    elif data.held_out_percent == 0 and not data.eval and config.evaluation.problems:
        yield "data.held_out_percent=0: leaves nothing to evaluate on; raise it, or set data.eval"
    if data.tokenizer == "checkpoint" and config.checkpoint is None:
        yield "data.tokenizer=checkpoint: add checkpoint=<folder>"
    whole = data.max_prompt_tokens + config.sampling.max_tokens
    if trains and config.learner.micro_batch_tokens < whole:
        yield (
            f"learner.micro_batch_tokens={config.learner.micro_batch_tokens}: must hold one prompt and its response, "
            f"data.max_prompt_tokens + sampling.max_tokens = {whole}"
        )
    if 0 < config.rollout.kv_tokens < whole:
        yield (
            f"rollout.kv_tokens={config.rollout.kv_tokens}: must hold one prompt and its response, "
            f"data.max_prompt_tokens + sampling.max_tokens = {whole}; or 0"
        )
    if not config.model.from_checkpoint and config.model.max_position_embeddings < whole:
        yield (
            f"model.max_position_embeddings={config.model.max_position_embeddings}: must be at least "
            f"data.max_prompt_tokens + sampling.max_tokens = {whole}"
        )


def _sampling(config: RunConfig) -> Iterator[str]:
    sampling = config.sampling
    if not 0 < sampling.top_p <= 1:
        yield f"sampling.top_p={sampling.top_p}: must be above 0 and at most 1"
    if sampling.min_tokens > sampling.max_tokens:
        yield f"sampling.min_tokens={sampling.min_tokens}: more than sampling.max_tokens={sampling.max_tokens}"
    if not all(sampling.stop):
        yield f"sampling.stop={sampling.stop}: no string may be empty, all responses would end with it"
    if (length := stop_bytes(sampling.stop)) > MOST_STOP_BYTES:
        yield f"sampling.stop: {length} bytes together, must be at most {MOST_STOP_BYTES}"
    if sampling.closing_text.rfind("</think>") <= sampling.closing_text.rfind("<think>"):
        yield f"sampling.closing_text={sampling.closing_text!r}: must close the thinking, so hold </think>"
    if sampling.thinking_tokens >= sampling.max_tokens:
        yield (
            f"sampling.thinking_tokens={sampling.thinking_tokens}: must leave some of "
            f"sampling.max_tokens={sampling.max_tokens} for the closing text and the answer"
        )


def _cut_distribution(config: RunConfig) -> str | None:
    """Sampling from less than the whole distribution, which training is refused unless it was asked for."""
    sampling = config.sampling
    keys = {"top_p": sampling.top_p < 1, "top_k": sampling.top_k > 0, "min_tokens": sampling.min_tokens > 0}
    key = next((key for key, cuts in keys.items() if cuts), None)
    if key is None or sampling.allow_truncated:
        return None
    return (
        f"sampling.{key}={getattr(sampling, key)}: the learner knows nothing of what this cuts away, so that its ratio "
        "does not begin at 1; set sampling.allow_truncated=true if that is wanted"
    )


def _rewards(config: RunConfig) -> Iterator[str]:
    rewards = config.rewards
    if not rewards.clip_min < rewards.clip_max:
        yield f"rewards.clip_min={rewards.clip_min}: must be below rewards.clip_max={rewards.clip_max}"
    if 0 < rewards.length_max_tokens < rewards.length_min_tokens:
        yield (
            f"rewards.length_max_tokens={rewards.length_max_tokens}: below "
            f"rewards.length_min_tokens={rewards.length_min_tokens}; 0 sets no upper bound"
        )
    if config.data.verifier == "judge" and not (rewards.judge.url and rewards.judge.model):
        yield "rewards.judge.url=null: data.verifier=judge asks a model; set rewards.judge.url and rewards.judge.model"
    cache, limit = rewards.overlong_cache_tokens, config.sampling.max_tokens
    if rewards.overlong_weight and not 0 < cache <= limit:
        yield (
            f"rewards.overlong_cache_tokens={cache}: with rewards.overlong_weight={rewards.overlong_weight} it must "
            f"lie between 1 and sampling.max_tokens={limit}"
        )


def _system(config: RunConfig) -> Iterator[str]:
    learner = config.learner
    if learner.zero_stage not in (0, 1, 2, 3):
        yield f"learner.zero_stage={learner.zero_stage}: must be 0, 1, 2 or 3"
    elif learner.offload and learner.zero_stage == 0:
        yield "learner.offload=true: needs learner.zero_stage of 1, 2 or 3"
    jitter = 0.0 if config.model.from_checkpoint else config.model.router_jitter_noise
    if learner.exact and jitter > 0:
        yield (
            f"learner.exact=true: model.router_jitter_noise={jitter} routes the learner by chance; set it to 0, "
            "or learner.exact=false"
        )


def _value(config: RunConfig, key: str) -> float:
    return operator.attrgetter(key)(config)
