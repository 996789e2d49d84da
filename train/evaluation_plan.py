"""What `cispo evaluate` would do, in numbers, before anything is started."""

from __future__ import annotations

from lightning_cispo.configs.evaluation import run_of
from lightning_cispo.configs.schema import RunConfig
from lightning_cispo.model.folders import weights_folder
from lightning_cispo.model.tokenizer import load_tokenizer
from lightning_cispo.rl.data.names import on_disk
from lightning_cispo.rl.held_out import held_out_prompts
from lightning_cispo.train import plan
from lightning_cispo.train.weights import network_config, tokenizer_name, weights_state


def describe(config: RunConfig) -> str:
    """The plan of an evaluation: weights, problems and what is left out, sampling, memory, and the configuration."""
    model = network_config(config)
    rows = [
        ("evaluation", f"{plan.run_folder(config)}, seed {config.seed}"),
        *_weights(config),
        *plan.model_rows(model),
        *_problems(config),
        ("sampling", _sampling(config)),
        *plan.rollout_rows(config, model),
        *plan.cluster_rows(config, learner=False),
    ]
    return plan.page(rows, config)


def _weights(config: RunConfig) -> list[tuple[str, str]]:
    assert config.checkpoint is not None  # configs.check
    state = weights_state(config.checkpoint)
    rows = [("weights", f"{weights_folder(config.checkpoint)}{f', {state.reached}' if state else ''}")]
    if run := run_of(config.checkpoint):
        rows.append(("", f"sampling, rewards and prompts as in {run / 'config.yaml'}, but for what was typed"))
    return rows


def _problems(config: RunConfig) -> list[tuple[str, str]]:
    data, options = config.data, config.evaluation
    source = ", ".join(data.eval or data.train or [task.family for task in data.tasks])
    kind = "" if data.eval else "held-out share of "
    if on_disk(data):
        held = held_out_prompts(data, load_tokenizer(tokenizer_name(config)), options.problems)
        count, said = len(held.prompts), str(held)
    else:  # of the hub, which a dry run does not ask
        count, said = options.problems, f"up to {options.problems:,} problems"
    responses = f"{count:,} problems x {options.samples} = {count * options.samples:,} responses"
    return [("problems", f"{kind}{source}: {said}"), ("", responses)]


def _sampling(config: RunConfig) -> str:
    sampling, temperature = config.sampling, config.evaluation.temperature
    parts = [
        "greedy" if temperature == 0 else f"temperature {temperature:g}",
        f"at most {sampling.max_tokens:,} tokens",
    ]
    parts += [f"top-p {sampling.top_p:g}"] * (sampling.top_p < 1) + [f"top-k {sampling.top_k}"] * (sampling.top_k > 0)
    parts.append(f"prompts of at most {config.data.max_prompt_tokens:,} tokens")
    return ", ".join([*parts, f"chat template {config.data.chat_template.name}"])
