"""The one table of metric names. `metrics.jsonl`, W&B and the report use these and no others.

`python -m lightning_cispo.train.metrics` prints it as Markdown (docs/metrics.md).
"""

from __future__ import annotations

import re
from functools import cache
from typing import NamedTuple


class Metric(NamedTuple):
    """`name` may hold placeholders such as `<family>`, each standing for any non-empty text."""

    name: str
    unit: str
    description: str


# Of a step: `time/<phase>_s` of all of them add up to time/step_s.
STEP_PHASES = ("generate", "update", "publish", "record", "other")

TABLE: dict[str, list[Metric]] = {
    "Every line": [
        Metric("step", "count", "RL steps done when the line was written; 0 is before RL"),
        Metric("time/wall_s", "s", "since the run began, pauses between a stop and its resume left out"),
    ],
    "Time": [
        Metric("time/step_s", "s", "from the end of the step before to its own, evaluation and checkpoint left out"),
        Metric("time/generate_s", "s", "waiting for responses and their verdicts"),
        Metric("time/update_s", "s", "advantages, packing, forward, backward and optimizer"),
        Metric("time/publish_s", "s", "weights from the learner to the rollout workers"),
        Metric("time/record_s", "s", "writing the step's traces"),
        Metric("time/other_s", "s", "the rest of time/step_s, which these five add up to"),
        Metric("time/evaluate_s", "s", "held-out evaluation"),
        Metric("time/checkpoint_s", "s", "writing a checkpoint"),
        Metric("throughput/tokens_per_s", "tokens/s", "response tokens generated and trained / time/step_s"),
        Metric("throughput/generate_tokens_per_s", "tokens/s", "response tokens of the step / time/generate_s"),
        Metric("throughput/update_tokens_per_s", "tokens/s", "tokens trained in the step / time/update_s"),
    ],
    "Reward": [
        Metric("reward/mean", "reward", "mean over scored responses, before any group is dropped"),
        Metric("reward/correct", "share", "scored responses with a correct answer, whatever shapes the reward"),
        Metric("reward/<part>", "reward", "mean of one unweighted part of the reward, such as `format` or `overlong`"),
    ],
    "Responses": [
        Metric("response/tokens_mean", "tokens", "sampled tokens of a response, stop token included: mean"),
        Metric("response/tokens_p50", "tokens", "the same: median"),
        Metric("response/tokens_p99", "tokens", "the same: 99th percentile"),
        Metric("response/truncated", "share", "responses that ran into the token limit"),
        Metric("response/repetition", "share", "responses that sampling.repetition_tokens stopped"),
        Metric("response/interrupted", "share", "responses whose thinking sampling.thinking_tokens closed"),
        Metric("response/thinking", "share", "responses with a non-empty think block"),
    ],
    "Groups": [
        Metric("groups/kept", "count", "groups that were trained on"),
        Metric("groups/dropped", "count", "groups dropped: their responses are equal in algorithm.contrast"),
        Metric("groups/refills", "count", "extra generation rounds that replaced dropped groups"),
        Metric("groups/masked", "count", "samples left out of the loss because their verifier's infrastructure failed"),
    ],
    "Policy": [
        Metric("policy/loss", "nats", "the objective, minimised, without the auxiliary loss"),
        Metric("policy/aux_loss", "1", "the router's load-balancing loss, after its coefficient"),
        Metric("policy/entropy", "nats", "of the policy's next-token distribution: mean over counted tokens"),
        Metric("policy/clip_fraction", "share", "counted tokens whose importance weight was clipped or masked"),
        Metric("policy/ratio_mean", "1", "importance ratio, policy over anchor, before clipping: mean"),
        Metric("policy/ratio_max", "1", "the same: largest"),
        Metric("policy/ratio_min", "1", "the same: smallest"),
        Metric("policy/weight_mean", "1", "importance weight after clipping: mean"),
        Metric("policy/ess", "share", "effective sample size of the weights, (sum w)^2 / (n sum w^2)"),
        Metric("policy/k3_kl", "nats", "learner against sampler, mean of r - 1 - log r"),
        Metric("policy/pearson", "1", "correlation of the learner's and sampler's token probabilities; 1 if constant"),
        Metric("policy/routing_changed", "share", "recorded expert choices that the learner would have made otherwise"),
        Metric("policy/grad_norm", "1", "global gradient norm before clipping: mean over the step's updates"),
        Metric("policy/lr", "1", "learning rate of the step's last update"),
        Metric("policy/loss_mass_positive", "1", "sum of |weight * advantage| over tokens with a positive advantage"),
        Metric("policy/loss_mass_negative", "1", "the same over tokens with a negative advantage"),
        Metric("policy/version", "count", "version of the weights published after the step"),
        Metric("policy/skipped_updates", "count", "the step's updates not applied: loss or gradients were not finite"),
        Metric("policy/empty_updates", "count", "the step's updates not made: no token counted in them"),
    ],
    "Warm start": [
        Metric("warm_start/step", "count", "supervised steps done"),
        Metric("warm_start/loss", "nats", "cross-entropy per demonstrated token"),
        Metric("warm_start/lr", "1", "learning rate"),
        Metric("warm_start/grad_norm", "1", "global gradient norm before clipping"),
        Metric("warm_start/skipped", "count", "1 where the step was not applied: loss or gradients were not finite"),
    ],
    "Held-out evaluation": [
        Metric("eval/problems", "count", "held-out problems with a response that could be judged"),
        Metric("eval/masked", "count", "responses that no verdict was found for; they count for neither side"),
        Metric(
            "eval/left_out",
            "count",
            "held-out problems left out: prompt too long, repeated, or beyond evaluation.problems",
        ),
        Metric("eval/truncated", "share", "responses that ran into the token limit"),
        Metric("eval/pass@1", "share", "right responses to a held-out problem: mean over samples, then over problems"),
        Metric("eval/pass@1_low", "share", "lower end of its 95 % interval for the population of problems"),
        Metric("eval/pass@1_high", "share", "upper end of the same interval"),
        Metric("eval/avg@<k>", "share", "pass@1 again, where a problem has k > 1 samples"),
        Metric("eval/pass@<k>", "share", "chance that one of k responses is right: mean over problems with k verdicts"),
        Metric("eval/tokens_mean", "tokens", "sampled tokens of a response: mean"),
        Metric("eval/repetition", "share", "responses that sampling.repetition_tokens stopped"),
        Metric("eval/thinking", "share", "responses with a non-empty think block"),
        Metric(
            "curriculum/<task>/level",
            "level",
            "of the parameter that follows the pass rate; task: family, or family-place",
        ),
        Metric("eval/task/<family>/pass@1", "share", "pass@1 within one task family"),
    ],
    "Rollout workers and verifiers": [
        Metric(
            "rollout/occupancy",
            "share",
            "decoding slots in use, by time until the last response is sampled, waiting included: mean over workers",
        ),
        Metric("rollout/prefill_tokens", "tokens", "prompt tokens run through the network"),
        Metric("rollout/prefill_saved_tokens", "tokens", "prompt tokens not run because a group shares its prompt"),
        Metric("rollout/tokens_per_s", "tokens/s", "sampled while the engine was at work, workers added up"),
        Metric("rollout/queue_s", "s", "from a prompt's arrival at a worker to a sample's slot: mean"),
        Metric("rollout/preemptions", "count", "sequences set aside for a while because key-value memory was short"),
        Metric("rollout/restarts", "count", "dead workers replaced since the run began"),
        Metric("verify/latency_mean_s", "s", "one isolated verification: mean; left out where none was made"),
        Metric("verify/latency_max_s", "s", "one isolated verification: slowest"),
        Metric("verify/queue_depth", "count", "verifications that waited at once: most, of one worker"),
        Metric("verify/timeouts", "count", "verifications stopped at their deadline"),
        Metric("verify/infra_errors", "count", "verifications that failed for reasons outside the response"),
        Metric("verify/judge_requests", "count", "requests to the judge, retries included"),
        Metric("verify/judge_failed", "count", "responses that the judge gave no grade"),
        Metric("verify/judge_length_bias", "-", "correlation of its grades with length, at equal correctness: highest"),
    ],
    "Machine": [
        Metric(
            "memory/total_mb",
            "MiB",
            "memory of all the run's processes together, measured every ten seconds",
        ),
    ],
}

METRICS: tuple[Metric, ...] = tuple(metric for section in TABLE.values() for metric in section)


class UnknownMetric(KeyError):
    """A name that is not in the table."""

    def __str__(self) -> str:
        return f"metric {self.args[0]!r} is not in the table of train/metrics.py"


@cache
def _patterns() -> list[tuple[re.Pattern[str], Metric]]:
    # The literal names first: `reward/mean` is itself, not a `reward/<part>`.
    ordered = sorted(METRICS, key=lambda metric: "<" in metric.name)
    # DOTALL: the name of a part or a task may hold any character.
    return [(re.compile(re.sub(r"<\w+>", ".+", re.escape(metric.name)), re.DOTALL), metric) for metric in ordered]


@cache
def describe(name: str) -> Metric:
    """The table's row for `name`. Raises UnknownMetric."""
    for pattern, metric in _patterns():
        if pattern.fullmatch(name):
            return metric
    raise UnknownMetric(name)


def markdown() -> str:
    """The table as a Markdown page, one section after the other."""
    lines = [
        "# Metrics",
        "",
        "The same names in `metrics.jsonl`, in W&B and in the report. A share is between 0 and 1. A value that is not",
        "finite is written as `null`. Generated by `python -m lightning_cispo.train.metrics > docs/metrics.md`.",
    ]
    for title, metrics in TABLE.items():
        lines += ["", f"## {title}", "", "| name | unit | meaning |", "|---|---|---|"]
        lines += [f"| `{name}` | {unit} | {text.replace('|', chr(92) + '|')} |" for name, unit, text in metrics]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(markdown(), end="")
