"""Combinations that work and are probably not meant."""

from __future__ import annotations

from lightning_cispo.configs.schema import Anchor, RunConfig


def warnings(config: RunConfig, trains: bool = True) -> list[str]:
    """One line each, naming the key."""
    found = []
    if config.evaluation.temperature == 0 and config.evaluation.samples > 1:
        found.append(
            f"evaluation.samples={config.evaluation.samples} with evaluation.temperature=0: greedy samples of a prompt "
            "are all the same"
        )
    return [*found, *_of_training(config)] if trains else found


def _of_training(config: RunConfig) -> list[str]:
    options, found = config.algorithm, []
    if options.is_weight_min > 0:
        found.append(
            f"algorithm.is_weight_min={options.is_weight_min}: bounds are absolute; one above 0 gives tokens that the "
            "policy has moved away from more weight than importance sampling would"
        )
    if options.is_weight_max < 1:
        found.append(
            f"algorithm.is_weight_max={options.is_weight_max}: bounds are absolute, not 1 + eps; below 1 every "
            "on-policy token is scaled down"
        )
    if options.anchor is Anchor.learner and options.updates_per_step == 1:
        found.append(
            "algorithm.anchor=learner with algorithm.updates_per_step=1: the ratio is 1 everywhere and CISPO's clip "
            "does nothing; take more updates or algorithm.anchor=sampler"
        )
    if config.sampling.temperature != 1.0:
        found.append(f"sampling.temperature={config.sampling.temperature}: the policy is trained at this temperature")
    if not (config.warm_start.steps or config.checkpoint or config.resume):
        found.append(
            "warm_start.steps=0 without checkpoint: random weights to which nothing was demonstrated rarely give "
            "a right answer to learn from"
        )
    return found
