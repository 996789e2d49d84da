"""Learning rate by update."""

from __future__ import annotations

import math

from lightning_cispo.configs.schema import OptimizerConfig, Schedule


def learning_rate(config: OptimizerConfig, update: int, updates: int) -> float:
    """Rate of update `update` (from 0) of `updates`: linear warm-up, then constant or a cosine down to 0."""
    if update < config.warmup_updates:
        return config.lr * (update + 1) / config.warmup_updates
    if config.schedule is Schedule.constant:
        return config.lr
    progress = (update - config.warmup_updates) / max(1, updates - config.warmup_updates)
    return config.lr * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def stretched(config: OptimizerConfig, before: int, now: int) -> str | None:
    """What to say of a run that goes on with another number of steps than it was planned with; None of the same."""
    if before == now or config.schedule is Schedule.constant:
        return None
    return f"steps={now}: the learning rate goes on along the cosine of {now} steps, which was one of {before}"
