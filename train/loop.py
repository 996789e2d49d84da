"""Reinforcement learning by CISPO: sample, judge, learn, publish, step after step."""

from __future__ import annotations

import time
from collections import Counter
from functools import partial

from lightning_cispo.configs.schema import Anchor
from lightning_cispo.model.generation.randomness import stream_key
from lightning_cispo.rl.advantages import informative, to_samples
from lightning_cispo.rl.guard import guarded
from lightning_cispo.rl.statistics import UpdateSums
from lightning_cispo.rl.summary import response_metrics
from lightning_cispo.rl.types import Group
from lightning_cispo.rl.worker import Draw
from lightning_cispo.train.ended import VerifiersDown
from lightning_cispo.train.interrupt import Stopped
from lightning_cispo.train.learner_group import Outcome
from lightning_cispo.train.run import Run
from lightning_cispo.train.schedule import learning_rate
from lightning_cispo.train.warm_start import warm_start


def train(run: Run) -> None:
    """Warm start if asked for, then RL to the last step or to a stop request, with an evaluation at both ends."""
    if not warm_start(run):
        return
    warm = str(run.folder / "checkpoints" / run.state.label) if run.state.warm_start_step else None
    run.start_learner(warm or run.config.checkpoint, run.config.optimizer, phase_resumed=run.state.step > 0)
    run.publish(run.state.step)
    if run.state.step == 0 and run.stop.signal is None:
        run.evaluate()
    for step in run.steps():
        started, begin = time.monotonic(), run.prompts.position
        try:
            groups, sampled = collect(run, step)
        except (Stopped, VerifiersDown) as reason:
            run.prompts.position = begin  # a resumed run takes the step from its beginning
            run.save()
            if isinstance(reason, Stopped):
                return
            raise
        learned = learn(run, groups)
        published = run.publish(step)
        run.finish_step(groups, {**sampled, **learned, **published}, time.monotonic() - started)
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
    done = run.state.step * algorithm.updates_per_step
    sums, norms, lr = UpdateSums(), [], 0.0
    outcomes = Counter({Outcome.empty: algorithm.updates_per_step - len(parts)})
    with run.console.bar(len(parts), "update", "step") as bar:
        for index, part in enumerate(parts):
            lr = learning_rate(run.config.optimizer, done + index, run.config.steps * algorithm.updates_per_step)
            report = run.learner.update(part, lr, algorithm)
            run.skipped.note(f"step-{run.state.step + 1:06d}-update-{index + 1}", report)
            outcomes[report.outcome] += 1
            if report.outcome is Outcome.applied:
                sums.add(report.sums)
                norms.append(report.grad_norm)
            bar.update(1)
    if unmade := sum(not part for part in parts):
        run.console.line(
            f"step {run.state.step + 1}: {unmade} of {algorithm.updates_per_step} updates were not made: "
            "none of their responses has a verdict"
        )
    metrics = {"groups/kept": float(len(kept)), "groups/dropped": float(len(groups) - len(kept))}
    metrics |= {f"policy/{kind.value}_updates": float(outcomes[kind]) for kind in (Outcome.skipped, Outcome.empty)}
    if norms:
        metrics |= guarded(sums.metrics, len(norms))
        metrics |= {"policy/grad_norm": sum(norms) / len(norms), "policy/lr": lr}
    seconds = time.monotonic() - started
    return metrics | {"time/update_s": seconds, "throughput/update_tokens_per_s": sums.tokens / max(1e-9, seconds)}
