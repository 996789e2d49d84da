"""A run folder as a run leaves it, with made-up but plausible numbers. `python -m tests.train.fake_run DIR`."""

from __future__ import annotations

import json
import math
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import yaml

from lightning_cispo.configs.schema import RunConfig, TaskConfig, TrackingMode
from lightning_cispo.rewards.verdict import Problem, Status, Verdict
from lightning_cispo.rl.types import Group, Prompt, Trajectory
from lightning_cispo.train.tracking import Tracker

HOSTILE = (
    "<think></think></script><script>window.hacked = 1</script><img src=x onerror='window.hacked = 2'>"
    '<!--<script> {{data}} & &lt; \u2028 \udcff <a href="javascript:window.hacked=3">https://example.org/x</a>'
)


def fake_config(steps: int = 60, mode: TrackingMode = TrackingMode.disabled) -> RunConfig:
    config = RunConfig(name="fake", steps=steps)
    config.tracking.mode = mode
    config.data.tasks = [TaskConfig("chain_sum"), TaskConfig("products")]
    return config


def trajectory(text: str, reward: float | None, sample: int, step: int = 0, status: Status | None = None) -> Trajectory:
    tokens = max(1, len(text))
    correct = bool(reward and reward > 0.5)
    verdict = Verdict(
        reward,
        correct,
        status or (Status.passed if correct else Status.failed),
        {"correct": float(correct), "format": 1.0},
    )
    return Trajectory(
        tokens_T=np.zeros(tokens, np.int32),
        loss_mask_T=np.ones(tokens, bool),
        sampler_logprobs_T=np.full(tokens, -0.25, np.float32),
        versions_T=np.full(tokens, step, np.int32),
        stop="eos",
        text=text,
        verdict=verdict,
        sample=sample,
    )


def group(rng: np.random.Generator, step: int, skill: float, samples: int = 8) -> Group:
    """Sums answered with probability `skill`, thinking the more often the better."""
    a, b, c = (int(x) for x in rng.integers(0, 10, 3))
    task = "chain_sum" if rng.random() < 0.6 else "products"
    problem = Problem(f"{a}+{b}+{c}=", str(a + b + c), "chain_sum", task)
    trajectories = []
    for sample in range(samples):
        right = rng.random() < skill
        answer = a + b + c + (0 if right else int(rng.integers(1, 4)))
        think = f"{a}+{b}={a + b}\n{a + b}+{c}={answer}" if rng.random() < 0.3 + skill else ""
        trajectories.append(trajectory(f"<think>{think}</think>{answer}", float(right), sample, step))
    return Group(Prompt(int(rng.integers(1 << 60)), problem, np.zeros(6, np.int32)), trajectories)


def evaluation(skill: float, problems: int = 512) -> dict[str, float]:
    half = 1.96 * math.sqrt(skill * (1 - skill) / problems)
    return {
        "eval/problems": problems,
        "eval/pass@1": skill,
        "eval/pass@1_low": skill - half,
        "eval/pass@1_high": skill + half,
        "eval/tokens_mean": 13 + 8 * skill,
        "eval/thinking": 0.3 + skill,
        "eval/task/chain_sum/pass@1": skill + 0.06,
        "eval/task/products/pass@1": skill - 0.08,
        "time/evaluate_s": 3.5,
    }


def step_metrics(rng: np.random.Generator, step: int, skill: float) -> dict[str, float]:
    def noisy(value: float, spread: float = 0.05) -> float:
        return float(value * math.exp(spread * rng.normal()))

    generate, update, publish = noisy(1.6, 0.1), noisy(1.1), noisy(0.07)
    length = noisy(13 + 8 * skill)
    return {
        "time/step_s": generate + update + publish + 0.05,
        "time/generate_s": generate,
        "time/update_s": update,
        "time/publish_s": publish,
        "throughput/tokens_per_s": 1024 * length / (generate + update + publish),
        "throughput/generate_tokens_per_s": 1024 * length / generate,
        "throughput/update_tokens_per_s": 1024 * length / update,
        "reward/mean": noisy(skill),
        "reward/correct": noisy(skill),
        "response/tokens_mean": length,
        "response/tokens_p50": round(length),
        "response/tokens_p99": noisy(length + 9),
        "response/truncated": noisy(0.01, 0.5),
        "response/thinking": min(1.0, noisy(0.3 + skill, 0.03)),
        "groups/kept": int(40 + rng.integers(0, 12)),
        "groups/dropped": int(12 + rng.integers(0, 8)),
        "policy/loss": noisy(0.02) - 0.02,
        "policy/entropy": noisy(0.75 - 0.5 * skill),
        "policy/clip_fraction": noisy(0.002, 0.4),
        "policy/ratio_max": noisy(4, 0.4),
        "policy/ratio_min": noisy(0.2, 0.4),
        "policy/weight_mean": noisy(1.0, 0.003),
        "policy/ess": 1 - noisy(0.02, 0.3),
        "policy/k3_kl": noisy(8e-4, 0.4),
        "policy/pearson": 1 - noisy(2e-3, 0.3),
        "policy/grad_norm": noisy(0.3, 0.25),
        "policy/lr": 1e-4,
        "policy/loss_mass_positive": noisy(0.4),
        "policy/loss_mass_negative": noisy(0.4),
        "policy/version": step * 4,
        "rollout/occupancy": noisy(0.8, 0.03),
        "memory/total_mb": noisy(3300, 0.01),
    }


def make_run(run_dir: Path, steps: int = 60, done: int | None = None, prompts: int = 4, hostile: bool = True) -> Path:
    """A warm start of 50 steps, `done` of `steps` RL steps, an evaluation every 20 steps, traces of all."""
    rng = np.random.default_rng(0)
    config = fake_config(steps)
    done = steps if done is None else done
    run_dir.mkdir(parents=True, exist_ok=True)
    (run_dir / "config.yaml").write_text(yaml.safe_dump(json.loads(json.dumps(asdict(config))), sort_keys=False))
    with Tracker(run_dir, config) as tracker:
        for warm in range(1, 51):
            clock = {"time/wall_s": 6 + 0.4 * warm}
            loss = 0.35 + 2.5 * math.exp(-warm / 9) * math.exp(0.06 * rng.normal())
            tracker.log(0, {"warm_start/step": warm, "warm_start/loss": loss, "warm_start/lr": 3e-3} | clock)
        for step in range(done + 1):
            skill = 0.35 + 0.25 * (1 - math.exp(-2.5 * step / steps))
            clock = {"time/wall_s": 26 + 3.0 * step}
            if step:
                tracker.log(step, step_metrics(rng, step, skill) | clock)
                tracker.log_traces(step, [group(rng, step, skill) for _ in range(prompts)])
            if step % 20 == 0 or step == steps:
                tracker.log(step, evaluation(skill) | clock)
                tracker.log_traces(step, [group(rng, step, skill, samples=1) for _ in range(32)], kind="eval")
        if hostile:
            problem = Problem("</pre><script>window.hacked = 4</script>", "<b>1</b>", "chain_sum", "<i>task</i>")
            tracker.log_traces(done, [Group(Prompt(1, problem, np.zeros(1, np.int32)), [trajectory(HOSTILE, 0.0, 0)])])
    return run_dir


if __name__ == "__main__":
    print(make_run(Path(sys.argv[1])))
