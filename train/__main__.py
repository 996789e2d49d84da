"""`python -m train experiment=quickstart`: warm start, RL by CISPO, held-out evaluation, report."""

from __future__ import annotations

import sys

from configs.load import main_config
from train.loop import train
from train.plan import describe
from train.preflight import checked
from train.run import Run


def main() -> int:
    config = main_config(sys.argv[1:], checked)
    if config.dry_run:
        print(describe(config))
        return 0
    with Run(config) as run:
        train(run)
    return run.conclude()


if __name__ == "__main__":
    sys.exit(main())
