"""Supervised warm start: cross-entropy on demonstrations until the policy can be sampled from with profit."""

from __future__ import annotations

from lightning_cispo.rl.demonstrations import demonstration_samples
from lightning_cispo.train.learner_group import Outcome
from lightning_cispo.train.run import Run
from lightning_cispo.train.schedule import learning_rate


def warm_start(run: Run) -> bool:
    """The supervised steps still to do. Returns False if a stop was asked for before the last.

    Leaves its weights in checkpoints/warm-..., from which RL starts with an optimizer of its own.
    """
    config, options = run.config, run.config.warm_start
    if run.state.step > 0 or run.state.warm_start_step >= options.steps:
        return True
    run.start_learner(config.checkpoint, options.optimizer, phase_resumed=run.state.warm_start_step > 0)
    with run.console.bar(options.steps - run.state.warm_start_step, "warm start", "step") as bar:
        while run.state.warm_start_step < options.steps and run.stop.signal is None:
            done = run.state.warm_start_step
            prompts = run.warm_start_prompts.take(options.batch_size)
            samples = demonstration_samples(
                prompts, config.data, run.tokenizer, config.seed, done, options.direct_fraction
            )
            lr = learning_rate(options.optimizer, done, options.steps)
            report = run.learner.update(samples, lr, algorithm=None)
            run.skipped.note(f"warm-{done + 1:06d}", report)
            skipped = float(report.outcome is Outcome.skipped)
            metrics = {
                "step": done + 1,
                "loss": report.sums.loss,
                "grad_norm": report.grad_norm,
                "lr": lr,
                "skipped": skipped,
            }
            run.finish_supervised_step(metrics)
            bar.set_postfix(loss=f"{report.sums.loss:.3f}")
            bar.update(1)
            run.console.supervised(done + 1, options.steps, report.sums.loss)
    run.save()
    return run.stop.signal is None
