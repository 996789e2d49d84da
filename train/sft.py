"""`python -m train.sft experiment=quickstart`: the supervised warm start alone, then a held-out evaluation."""

from __future__ import annotations

import sys
from pathlib import Path

from configs.errors import ConfigError, refusals
from configs.load import main_config
from configs.schema import RunConfig
from train.conclude import conclude
from train.folder import last_checkpoint
from train.interrupt import at_once
from train.plan import describe
from train.preflight import preflight
from train.run import Run
from train.state import load_state
from train.warm_start import warm_start


def main() -> int:
    config = main_config(sys.argv[1:], preflight, _something_to_do)
    if config.dry_run:
        print(describe(config))
        return 0
    with refusals(), at_once(), Run(config) as run:
        if warm_start(run):
            run.publish(0)
            run.evaluate()
    return conclude(run)


def _something_to_do(config: RunConfig) -> None:
    """Raises ConfigError where no supervised step is left."""
    steps, found = config.warm_start.steps, last_checkpoint(Path(config.resume)) if config.resume else None
    if not steps:
        raise ConfigError("warm_start.steps=0: there is nothing to do; set it, or take experiment=quickstart")
    if found and load_state(found).warm_start_step >= steps:
        raise ConfigError(f"resume={config.resume}: its {steps} supervised steps are done; python -m train goes on")


if __name__ == "__main__":
    sys.exit(main())
