"""`cispo evaluate checkpoint=runs/NAME data=arithmetic`: pass@1, avg@k and pass@k with 95 % intervals."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from lightning_cispo.configs.errors import refusals
from lightning_cispo.configs.load import main_config
from lightning_cispo.train.preflight import PACKAGES, preflight

if TYPE_CHECKING:
    from lightning_cispo.rl.accuracy import Estimate
    from lightning_cispo.rl.types import Group


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code. `arguments` are those of the command line unless given."""
    # The checkpoint brings its shape and its tokenizer, unless the command line says otherwise.
    given = ["model=checkpoint", "data.tokenizer=checkpoint", *(sys.argv[1:] if arguments is None else arguments)]
    config = main_config("cispo evaluate", given, preflight, data_shorthand=True, packages=PACKAGES)
    if config.dry_run:
        from lightning_cispo.train.plan import describe

        print(describe(config))
        return 0
    # Loaded for an accepted configuration alone, as in train/__main__.py.
    from lightning_cispo.rl.summary import accuracy
    from lightning_cispo.train.conclude import conclude
    from lightning_cispo.train.interrupt import at_once
    from lightning_cispo.train.run import Run

    assert config.checkpoint is not None  # configs.check, as the shape comes from it
    with refusals(), at_once(), Run(replace(config, name=f"evaluate-{config.name}"), learner=False) as run:
        run.publish_folder(config.checkpoint)
        groups = run.evaluate()
        run.console.line(table(groups))
    # A shell learns that nothing was measured.
    return conclude(run) or int(not accuracy(groups))


def table(groups: list[Group]) -> str:
    """Every estimate over all problems, then over each task's."""
    from lightning_cispo.rl.advantages import scored
    from lightning_cispo.rl.summary import accuracy

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
