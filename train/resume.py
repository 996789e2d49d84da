"""Checks of what a run is to go on from, before anything starts."""

from __future__ import annotations

from pathlib import Path

from lightning_cispo.configs.errors import ConfigError
from lightning_cispo.configs.schema import RunConfig
from lightning_cispo.model.folders import weights_folder
from lightning_cispo.train.checkpoints import refuse_damaged
from lightning_cispo.train.lines import read_metrics
from lightning_cispo.train.metrics import UnknownMetric, describe
from lightning_cispo.train.state import load_state, resume_point


def check_resume(config: RunConfig) -> None:
    """Raises ConfigError where there is no checkpoint or nothing left to do."""
    if config.resume is None:
        return
    folder, found = resume_point(config.resume)
    if found is None:
        raise ConfigError(f"resume={config.resume}: {_without_checkpoint(folder)}")
    if (found / "learner" / "latest").exists():  # DeepSpeed's own format, which version 0.1.0 wrote
        raise ConfigError(
            f"resume={config.resume}: {found.name} was saved by version 0.1.0, whose optimizer state is not read now; "
            f"begin a new run from its weights: checkpoint={found}"
        )
    done = load_state(found).step
    unevaluated = config.evaluation.problems and not any(
        line["step"] == done and "time/evaluate_s" in line for line in read_metrics(folder)
    )
    if config.steps < done or config.steps == done and not unevaluated:
        raise ConfigError(f"steps={config.steps}: the run has done {done} already; to go on, set steps to more")


def _without_checkpoint(folder: Path) -> str:
    """What became of a run that can't be resumed."""
    lines = read_metrics(folder)
    steps = max((max(line["step"], line.get("warm_start/step", 0)) for line in lines), default=0)
    if steps:
        return f"the run ended after {steps} steps, before its first checkpoint; start it again without resume"
    return "the run ended before its first step; start it again without resume"


def check_whole(config: RunConfig) -> None:
    """What is about to be loaded against its checksums: all of it is read, so it comes last."""
    if config.dry_run:
        return
    if config.resume:
        found = resume_point(config.resume)[1]
        assert found is not None  # check_resume
        refuse_damaged("resume", config.resume, found)
    elif config.checkpoint:
        refuse_damaged("checkpoint", config.checkpoint, weights_folder(config.checkpoint))


def check_best(config: RunConfig) -> None:
    """Raises ConfigError where checkpoints.best is no metric."""
    try:
        describe(config.checkpoints.best or "step")
    except UnknownMetric:
        raise ConfigError(
            f"checkpoints.best={config.checkpoints.best}: must be null or a metric, such as eval/pass@1; "
            "docs/metrics.md lists them"
        ) from None
