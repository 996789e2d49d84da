"""`cispo evaluate checkpoint=runs/NAME data=arithmetic`: pass@1, avg@k and pass@k with 95 % intervals."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from lightning_cispo.configs.errors import ConfigError
from lightning_cispo.configs.evaluation import run_of
from lightning_cispo.configs.load import main_config
from lightning_cispo.configs.schema import RunConfig
from lightning_cispo.train.preflight import PACKAGES, preflight

if TYPE_CHECKING:
    from lightning_cispo.rl.accuracy import Estimate
    from lightning_cispo.rl.types import Group


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code. `arguments` are those of the command line unless given."""
    # The checkpoint brings its shape and its tokenizer, unless the command line says otherwise.
    given = ["model=checkpoint", "data.tokenizer=checkpoint", *(sys.argv[1:] if arguments is None else arguments)]
    config = main_config(
        "cispo evaluate", given, _something_to_evaluate, preflight, data_shorthand=True, packages=PACKAGES
    )
    config = replace(config, name=f"evaluate-{config.name}")
    if config.dry_run:
        from lightning_cispo.train.evaluation_plan import describe

        print(describe(config))
        return 0
    # Loaded for an accepted configuration alone, as in train/__main__.py.
    from lightning_cispo.train.conclude import conclude
    from lightning_cispo.train.failure import opened
    from lightning_cispo.train.run import Run

    assert config.checkpoint is not None  # configs.check, as the shape comes from it
    with opened(Run(config, learner=False), "cispo evaluate") as run:
        if origin := run_of(config.checkpoint):
            run.console.line(f"sampling, rewards and prompts as in {origin / 'config.yaml'}, but for what was typed")
        run.publish_folder(config.checkpoint)
        groups = run.evaluate()
        shown = table(groups)
        if shown:
            run.console.line(shown)
    # A shell learns that nothing was measured.
    return conclude(run, "cispo evaluate") or int(not shown)


def _something_to_evaluate(config: RunConfig) -> None:
    if not config.evaluation.problems:
        raise ConfigError("evaluation.problems=0: leaves nothing to evaluate; set how many")


def table(groups: list[Group]) -> str:
    """Every estimate over all problems, then over each task's; empty where nothing was judged."""
    from lightning_cispo.rl.advantages import scored
    from lightning_cispo.rl.summary import accuracy

    tasks = sorted({group.prompt.problem.task for group in groups})
    rows = [("all", groups)]
    if len(tasks) > 1:
        rows += [(task, [group for group in groups if group.prompt.problem.task == task]) for task in tasks]
    judged = [(name, part) for name, part in rows if any(map(scored, part))]
    return "\n".join(_row(name, accuracy(part)) for name, part in judged)


def _row(name: str, found: dict[str, Estimate]) -> str:
    """The estimates, over the problems that have a verdict; an estimate over fewer of them says over how many."""
    problems = found["pass@1"].problems
    fewer = {key: f" (n={e.problems})" * (e.problems < problems) for key, e in found.items()}
    return f"{name:<24} {problems:>6} problems   " + "   ".join(f"{key} {e}{fewer[key]}" for key, e in found.items())


if __name__ == "__main__":
    sys.exit(main())
