"""`python -m train.evaluate checkpoint=runs/NAME data=arithmetic`: pass@1, avg@k and pass@k with 95 % intervals."""

from __future__ import annotations

import sys
from dataclasses import replace

from configs.errors import refusals
from configs.load import main_config
from rl.accuracy import Estimate
from rl.advantages import scored
from rl.summary import accuracy
from rl.types import Group
from train.conclude import conclude
from train.interrupt import at_once
from train.plan import describe
from train.preflight import preflight
from train.run import Run


def main() -> int:
    # The checkpoint brings its shape and its tokenizer, unless the command line says otherwise.
    defaults = ["model=checkpoint", "data.tokenizer=checkpoint"]
    config = main_config([*defaults, *sys.argv[1:]], preflight, data_shorthand=True)
    if config.dry_run:
        print(describe(config))
        return 0
    assert config.checkpoint is not None  # configs.check, as the shape comes from it
    with refusals(), at_once(), Run(replace(config, name=f"evaluate-{config.name}"), learner=False) as run:
        run.publish_folder(config.checkpoint)
        groups = run.evaluate()
        run.console.line(table(groups))
    return conclude(run)


def table(groups: list[Group]) -> str:
    """Every estimate over all problems, then over each task's."""
    tasks = sorted({group.prompt.problem.task for group in groups})
    rows = [("all", groups)]
    if len(tasks) > 1:
        rows += [(task, [group for group in groups if group.prompt.problem.task == task]) for task in tasks]
    judged = [(name, part) for name, part in rows if any(map(scored, part))]
    return "\n".join(_row(name, len(part), accuracy(part)) for name, part in judged)


def _row(name: str, problems: int, found: dict[str, Estimate]) -> str:
    return f"{name:<24} {problems:>6} problems   " + "   ".join(f"{key} {value}" for key, value in found.items())


if __name__ == "__main__":
    sys.exit(main())
