"""Reinforcement learning by CISPO: sample, judge, learn, publish, step after step."""

from __future__ import annotations

import time
from functools import partial

from lightning_cispo.configs.schema import Anchor
from lightning_cispo.model.generation.randomness import stream_key
from lightning_cispo.rl.advantages import Sample, informative, to_samples
from lightning_cispo.rl.guard import guarded
from lightning_cispo.rl.statistics import UpdateSums
from lightning_cispo.rl.summary import response_metrics
from lightning_cispo.rl.types import Group
from lightning_cispo.rl.worker import Draw
from lightning_cispo.train.ended import VerifiersDown
from lightning_cispo.train.interrupt import Stopped
from lightning_cispo.train.learner_group import Outcome, StepReport
from lightning_cispo.train.run import Run
from lightning_cispo.train.schedule import learning_rate
from lightning_cispo.train.warm_start import warm_start


def train(run: Run) -> None:
    """Warm start if asked for, then RL to the last step or to a stop request, with an evaluation at both ends.

    A stop request abandons a generation or an evaluation; the step's beginning is saved, and a resumed run repeats it.
    """
    if not warm_start(run):
        return
    warm = str(run.folder / "checkpoints" / run.state.label) if run.state.warm_start_step else None
    run.start_learner(warm or run.config.checkpoint, run.config.optimizer, phase_resumed=run.state.step > 0)
    try:
        run.publish(run.state.step)
        if run.evaluation_due():
            run.evaluate()
        for step in run.steps():
            groups, sampled = collect(run, step)
            learned = learn(run, groups)
            published = {} if run.stop.signal else run.publish(step)
            run.finish_step(groups, {**sampled, **learned, **published})
    except Stopped:
        pass
    except VerifiersDown:
        run.save()
        raise
    run.save()


def collect(run: Run, step: int) -> tuple[list[Group], dict[str, float]]:
    """A step's groups: `prompts_per_step`, then refills for those that carry no gradient while `max_refills` lasts."""
    algorithm, sampling = run.config.algorithm, run.config.sampling
    started, refills = time.monotonic(), -1
    groups: list[Group] = []
    contrasts = partial(informative, contrast=algorithm.contrast)
    while refills < (algorithm.max_refills if algorithm.dynamic_sampling else 0):
        wanted = algorithm.prompts_per_step - sum(map(contrasts, groups))
        if wanted == 0:
            break
        refills += 1
        seed = stream_key(run.config.seed, step, refills)
        draw = Draw(algorithm.group_size, sampling.temperature, sampling.max_tokens, seed)
        groups = run.settle(groups + run.generate(run.prompts.take(wanted), draw), sampling.max_tokens)
    metrics = {"groups/refills": float(refills), "time/generate_s": time.monotonic() - started}
    levels = run.prompts.courses.record(groups)
    return groups, {**metrics, **levels, **guarded(response_metrics, groups), **guarded(run.rollouts.metrics)}


def learn(run: Run, groups: list[Group]) -> dict[str, float]:
    """`updates_per_step` optimizer steps over the groups that carry gradient, each over its share of the prompts."""
    algorithm, started = run.config.algorithm, time.monotonic()
    kept = [g for g in groups if informative(g, algorithm.contrast)] if algorithm.dynamic_sampling else groups
    shares = [kept[i :: algorithm.updates_per_step] for i in range(algorithm.updates_per_step)]
    parts = [to_samples(share, algorithm, run.config.sampling.max_tokens) for share in shares if share]
    if algorithm.anchor is Anchor.learner:
        parts = [run.learner.anchor(part) for part in parts]
    reports, lr = _updates(run, parts)
    sums, applied = UpdateSums(), [report for report in reports if report.outcome is Outcome.applied]
    for report in applied:
        sums.add(report.sums)
    skipped = sum(report.outcome is Outcome.skipped for report in reports)
    metrics = {
        "groups/kept": float(len(kept)),
        "groups/dropped": float(len(groups) - len(kept)),
        "policy/skipped_updates": float(skipped),
        "policy/empty_updates": float(algorithm.updates_per_step - len(applied) - skipped),
    }
    if applied:
        norms = [report.grad_norm for report in applied]
        metrics |= guarded(sums.metrics, len(applied))
        metrics |= {"policy/grad_norm": sum(norms) / len(norms), "policy/lr": lr}
    seconds = time.monotonic() - started
    return metrics | {"time/update_s": seconds, "throughput/update_tokens_per_s": sums.tokens / max(1e-9, seconds)}


def _updates(run: Run, parts: list[list[Sample]]) -> tuple[list[StepReport], float]:
    """An optimizer step over each part, as far as it can be taken. Returns the last one's learning rate too."""
    algorithm, step, lr = run.config.algorithm, run.state.step + 1, 0.0
    done, reports = run.state.step * algorithm.updates_per_step, []
    with run.console.bar(len(parts), "update", "step") as bar:
        for index, part in enumerate(parts):
            lr = learning_rate(run.config.optimizer, done + index, run.config.steps * algorithm.updates_per_step)
            reports.append(run.learner.update(part, lr, algorithm))
            run.skipped.note(f"step-{step:06d}-update-{index + 1}", reports[-1])
            bar.update(1)
    if empty := sum(report.outcome is Outcome.empty for report in reports):
        why = "no token counts in them, as verdicts failed or no token was the policy's choice"
        run.console.line(f"step {step}: {empty} of {len(parts)} updates were not made: {why}")
    return reports, lr
