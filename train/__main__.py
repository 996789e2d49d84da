"""`cispo train experiment=quickstart`: warm start, RL by CISPO, held-out evaluation, report."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from lightning_cispo.configs.load import main_config
from lightning_cispo.train.preflight import PACKAGES, preflight_training


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code. `arguments` are those of the command line unless given."""
    config = main_config("cispo train", arguments, preflight_training, packages=PACKAGES)
    if config.dry_run:
        from lightning_cispo.train.plan import describe

        print(describe(config))
        return 0
    # Ray, torch and DeepSpeed load for an accepted configuration alone: a refusal takes no seconds.
    from lightning_cispo.train.conclude import conclude
    from lightning_cispo.train.failure import opened
    from lightning_cispo.train.loop import train
    from lightning_cispo.train.run import Run

    with opened(Run(config), "cispo train") as run:
        train(run)
    return conclude(run, "cispo train")


if __name__ == "__main__":
    sys.exit(main())
