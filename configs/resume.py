"""What may change when a run goes on: where, how fast and how long it runs, and what is recorded."""

from __future__ import annotations

# Sections stand for all their keys. Anything else would make another run: the same data, prompts, sampling, rewards
# and objective are what its curves show.
CHANGEABLE = (
    "steps",
    "dry_run",
    "tracking",
    "evaluation",
    "checkpoints",
    "cluster",
    "rollout.workers",
    "rollout.slots",
    "rollout.prefill_tokens",
    "rollout.kv_tokens",
    "rollout.threads",
    "rollout.max_restarts",
    "rollout.max_unjudged",
    "rollout.wait_for_verifier_s",
    "learner.micro_batch_tokens",
    "learner.activation_checkpointing",
    "learner.threads",
    "learner.max_skipped_updates",
    "rewards.processes",
    "rewards.max_queue",
    "rewards.judge.url",  # of the same model, wherever it is served
    "rewards.judge.key_variable",
    "rewards.judge.timeout_s",
    "rewards.judge.retries",
    "rewards.judge.backoff_s",
    "rewards.judge.budget",
    "rewards.judge.cache",
    "rewards.judge.concurrency",
)
# These change what is learned from here on; taken, with a warning.
WARNED = ("optimizer.lr", "warm_start.optimizer.lr")


def may_change(key: str) -> bool:
    """Whether a resumed run takes another value of this key."""
    return any(key == name or key.startswith(f"{name}.") for name in (*CHANGEABLE, *WARNED))


def changed_rates(overrides: dict[str, tuple[object, object]]) -> list[str]:
    """One warning for each learning rate among the changed keys, given as {key: (before, now)}."""
    return [
        f"{key}={now}: from here on, instead of {before}; the run's curves have a bend at this step"
        for key, (before, now) in overrides.items()
        if key in WARNED
    ]
