"""`cispo sft experiment=quickstart`: the supervised warm start alone, then a held-out evaluation."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import suppress

from lightning_cispo.configs.errors import ConfigError
from lightning_cispo.configs.load import main_config
from lightning_cispo.configs.schema import RunConfig
from lightning_cispo.train.preflight import PACKAGES, preflight_training
from lightning_cispo.train.state import load_state, resume_point


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code. `arguments` are those of the command line unless given."""
    config = main_config("cispo sft", arguments, _something_to_do, preflight_training, packages=PACKAGES)
    if config.dry_run:
        from lightning_cispo.train.plan import describe

        print(describe(config))
        return 0
    # Loaded for an accepted configuration alone, as in train/__main__.py.
    from lightning_cispo.train.conclude import conclude
    from lightning_cispo.train.failure import opened
    from lightning_cispo.train.interrupt import Stopped
    from lightning_cispo.train.run import Run
    from lightning_cispo.train.warm_start import warm_start

    with opened(Run(config), "cispo sft") as run:
        with suppress(Stopped):
            if warm_start(run):
                run.publish(0)
                run.evaluate()
    return conclude(run, "cispo sft")


def _something_to_do(config: RunConfig) -> None:
    """Raises ConfigError where no supervised step is left."""
    steps, found = config.warm_start.steps, resume_point(config.resume)[1] if config.resume else None
    if not steps:
        raise ConfigError("warm_start.steps=0: there is nothing to do; set it, or take experiment=quickstart")
    if found and load_state(found).warm_start_step >= steps:
        raise ConfigError(f"resume={config.resume}: its {steps} supervised steps are done; cispo train goes on")


if __name__ == "__main__":
    sys.exit(main())
