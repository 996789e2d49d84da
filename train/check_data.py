"""Checks of data sets, generated tasks and demonstrations. Each imports what it needs."""

from __future__ import annotations

import re

from lightning_cispo.configs.errors import ConfigError
from lightning_cispo.configs.schema import PromptStyle, RunConfig, TaskConfig
from lightning_cispo.train.weights import tokenizer_name


def check_files(config: RunConfig) -> None:
    """Every row of data.train and data.eval, the pattern and the verifier. Raises ConfigError."""
    data = config.data
    if not data.train and not data.eval:
        return
    if data.answer_pattern is not None:
        try:
            groups = re.compile(data.answer_pattern).groups
        except re.error as error:
            raise ConfigError(f"data.answer_pattern={data.answer_pattern}: not a regular expression: {error}") from None
        if groups < 1:
            raise ConfigError(
                f"data.answer_pattern={data.answer_pattern}: needs a group around the answer, as in '#### (.+)'"
            )
    _readable(config)  # a missing file is told before a verifier's process starts
    from lightning_cispo.rewards.grader import check_verifier

    if wrong := check_verifier(data.verifier, config.rewards.code.min_isolation.value):
        raise ConfigError(f"data.verifier={data.verifier}: {wrong}")
    if not _readable(config):
        return
    from lightning_cispo.rl.data.errors import DataError
    from lightning_cispo.rl.data.sources import open_sources

    try:
        open_sources(data, progress=config.tracking.progress)
    except DataError as error:
        raise ConfigError(str(error)) from None


def check_enough(config: RunConfig) -> None:
    """Whether the data hold enough prompts for a step, and the tokenizer reads them. Raises ConfigError."""
    if not config.data.tasks and not _readable(config):
        return
    from lightning_cispo.model.tokenizer import load_tokenizer
    from lightning_cispo.rl.prompts import training_stream

    most = max(config.algorithm.prompts_per_step, config.warm_start.batch_size if config.warm_start.steps else 0)
    try:
        training_stream(config.data, load_tokenizer(tokenizer_name(config)), config.seed).take(most)
    except ValueError as error:
        named = f"data.train={', '.join(config.data.train)}: " if config.data.train else ""
        raise ConfigError(f"{named}{error}") from None


def _readable(config: RunConfig) -> bool:
    """Whether the data sets are read at this point: a plan doesn't download them. Raises ConfigError."""
    from lightning_cispo.rl.data.errors import DataError
    from lightning_cispo.rl.data.names import on_disk

    try:
        return on_disk(config.data) or not config.dry_run
    except DataError as error:
        raise ConfigError(str(error)) from None


def check_tasks(config: RunConfig) -> None:
    """Families, their parameters, their compact forms and demonstrations. Raises ConfigError."""
    import numpy as np

    from lightning_cispo.rewards import logic
    from lightning_cispo.rl.demonstrations import demonstration
    from lightning_cispo.rl.types import Prompt

    for index, task in enumerate(config.data.tasks):
        wrong = logic.check_params(task.family, task.params) or _check_course(task)
        if wrong:
            raise ConfigError(f"data.tasks.{index}: {wrong}")
        problem = logic.generate(task.family, task.params, config.seed, 0)
        try:
            if config.data.prompt_style is PromptStyle.compact:
                logic.compact(problem)
        except ValueError as error:
            raise ConfigError(f"data.prompt_style=compact: {error}") from None
        try:
            if config.warm_start.steps:
                demonstration(Prompt(0, problem, np.zeros(0, np.int32)), config.data, direct=False)
        except ValueError as error:
            raise ConfigError(f"warm_start.steps={config.warm_start.steps}: {error}") from None


def _check_course(task: TaskConfig) -> str | None:
    """Both ends of a curriculum, which the family must take, and its rates."""
    if task.curriculum is None:
        return None
    from lightning_cispo.rewards import logic
    from lightning_cispo.rl.curriculum import Courses

    course = task.curriculum
    try:
        Courses([task])
    except ValueError as error:
        return f"{task.family}: curriculum: {error}"
    ends = ({**task.params, course.parameter: level} for level in (course.least, course.most))
    return next(filter(None, (logic.check_params(task.family, params) for params in ends)), None)
