"""What a configuration would do, in numbers, before anything is started."""

from __future__ import annotations

import math
from pathlib import Path

from lightning_cispo.configs.load import to_yaml
from lightning_cispo.configs.schema import LIGHTNING, ModelConfig, Precision, RunConfig
from lightning_cispo.model.describe import count_parameters, kv_bytes, state_bytes, training_bytes
from lightning_cispo.model.sizes import routing_bytes, tail_bytes
from lightning_cispo.rl.data.errors import DataError
from lightning_cispo.rl.data.names import on_disk
from lightning_cispo.rl.data.sources import open_sources
from lightning_cispo.train.cluster.session import available_cores
from lightning_cispo.train.folder import free_name
from lightning_cispo.train.weights import network_config


def describe(config: RunConfig) -> str:
    """The resolved plan: batch arithmetic, parameters, memory per device, actors, and the whole configuration."""
    model = network_config(config)
    rows = [
        *_run(config),
        *_data(config),
        *model_rows(model),
        *_step(config),
        *_learner(config, model),
        *rollout_rows(config, model),
        *cluster_rows(config),
    ]
    return page(rows, config)


def page(rows: list[tuple[str, str]], config: RunConfig) -> str:
    """The rows as a table, and the whole configuration below it."""
    table = "\n".join(f"{label:<11} {text}" for label, text in rows)
    return f"{table}\n\n{to_yaml(config).rstrip()}"


def run_folder(config: RunConfig) -> Path:
    return Path(config.resume or Path(config.runs_dir) / free_name(Path(config.runs_dir), config.name))


def _run(config: RunConfig) -> list[tuple[str, str]]:
    resumed = " (resumed)" if config.resume else ""
    rows = [("run", f"{run_folder(config)}{resumed}, {config.steps} steps, seed {config.seed}")]
    if config.checkpoint:
        rows.append(("weights", config.checkpoint))
    return rows


def _data(config: RunConfig) -> list[tuple[str, str]]:
    """The data sets by what preflight has read; hub names alone, which a plan doesn't download."""
    data = config.data
    named = [name for name in (*(data.train or []), *(data.eval or []))]
    if not named:
        return []
    try:
        rows = open_sources(data).summary() if on_disk(data) else []
    except DataError:  # a plan is drawn before it is judged
        rows = []
    return [("data", "; ".join(rows or named))]


def model_rows(model: ModelConfig) -> list[tuple[str, str]]:
    counts, lightning = count_parameters(model), model.layer_types.count(LIGHTNING)
    layers = f"{model.num_hidden_layers} layers ({lightning} lightning, {model.num_hidden_layers - lightning} softmax)"
    experts = f"top {model.num_experts_per_tok} of {model.num_local_experts} experts"
    return [
        ("model", f"{counts.total:,} parameters, {counts.active:,} active a token (without embedding and LM head)"),
        ("", f"{layers}, {experts}, vocabulary {model.vocab_size:,}"),
    ]


def _step(config: RunConfig) -> list[tuple[str, str]]:
    options, ranks = config.algorithm, config.learner.world_size
    responses = options.prompts_per_step * options.group_size
    prompts = options.prompts_per_step // options.updates_per_step
    update = prompts * options.group_size
    longest = config.data.max_prompt_tokens + config.sampling.max_tokens
    tokens = math.ceil(update / ranks) * longest
    batches = math.ceil(tokens / config.learner.micro_batch_tokens)
    rows = []
    if config.warm_start.steps:
        rows.append(("warm start", f"{config.warm_start.steps} steps of {config.warm_start.batch_size} demonstrations"))
    return [
        *rows,
        ("step", f"{options.prompts_per_step} prompts x {options.group_size} = {responses} responses"),
        ("", f"/ {options.updates_per_step} updates = {prompts} prompts, {update} responses an update"),
        ("", f"/ {_count(ranks, 'rank')} = {update / ranks:g} responses a rank, at most {longest} tokens each"),
        ("", f"-> at most {tokens:,} tokens, about {batches} micro-batches of {config.learner.micro_batch_tokens:,}"),
        ("evaluation", _evaluation(config)),
    ]


def _evaluation(config: RunConfig) -> str:
    options = config.evaluation
    when = f"before, every {options.every} steps and after" if options.every else "before and after"
    return f"{options.problems} problems x {options.samples} responses, {when}"


def _learner(config: RunConfig, model: ModelConfig) -> list[tuple[str, str]]:
    options = config.learner
    need = training_bytes(model, options.world_size, options.zero_stage)
    parts = {"parameters": need.parameters, "gradients": need.gradients, "optimizer": need.optimizer}
    where = "optimizer state in host memory" if options.offload else "all on the device"
    kind = f"{_count(options.world_size, 'rank')}, ZeRO {options.zero_stage}, {options.precision.name}"
    return [
        ("learner", f"{kind}; {_size(need.total)} a rank"),
        ("", ", ".join(f"{name} {_size(size)}" for name, size in parts.items())),
        ("", f"{where}; activations come on top"),
    ]


def rollout_rows(config: RunConfig, model: ModelConfig) -> list[tuple[str, str]]:
    options = config.rollout
    itemsize = 2 if config.learner.precision is Precision.bfloat16 else 4
    longest = config.data.max_prompt_tokens + config.sampling.max_tokens
    # The exact mode on GPUs, which bf16 means here, keeps a tile of 64 tokens beside each state.
    tail = tail_bytes(model, 64) if config.learner.exact and itemsize == 2 else 0
    parts = {
        "weights": 4 * count_parameters(model).total,
        "lightning states": options.slots * (state_bytes(model) + tail),
        f"keys and values at {longest} tokens": options.slots * kv_bytes(model, longest, itemsize),
    }
    if config.algorithm.routing_replay:
        parts["expert choices"] = options.slots * routing_bytes(model, longest)
    workers = _count(options.workers, "worker")
    return [
        ("rollout", f"{workers} of {options.slots} slots; up to {_size(sum(parts.values()))} a worker"),
        ("", ", ".join(f"{name} {_size(size)}" for name, size in parts.items())),
    ]


def cluster_rows(config: RunConfig, learner: bool = True) -> list[tuple[str, str]]:
    ranks, workers = config.learner.world_size, config.rollout.workers
    actors = f"{ranks} learner + {workers} rollout actors" if learner else _count(workers, "rollout actor")
    if config.cluster.address:
        return [("Ray", f"attaches to {config.cluster.address}; {actors}")]
    cores = available_cores()
    threads = config.learner.threads or max(1, cores // ranks), config.rollout.threads or max(1, cores // workers)
    turns = f"{threads[0]} threads a rank, {threads[1]} a worker: they take turns"
    return [
        ("Ray", f"started here on {cores} cores, object store {config.cluster.object_store_mb} MiB; {actors}"),
        ("", turns if learner else f"{_count(threads[1], 'thread')} a worker"),
    ]


def _size(count: float) -> str:
    for unit, size in (("TiB", 2**40), ("GiB", 2**30)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count / 2**20:.1f} MiB"


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
