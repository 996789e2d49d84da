"""`python -m train experiment=quickstart`: warm start, RL by CISPO, held-out evaluation, report."""

from __future__ import annotations

import sys

from configs.errors import refusals
from configs.load import main_config
from train.conclude import conclude
from train.interrupt import at_once
from train.loop import train
from train.plan import describe
from train.preflight import preflight
from train.run import Run


def main() -> int:
    config = main_config(sys.argv[1:], preflight)
    if config.dry_run:
        print(describe(config))
        return 0
    with refusals(), at_once(), Run(config) as run:
        train(run)
    return conclude(run)


if __name__ == "__main__":
    sys.exit(main())
