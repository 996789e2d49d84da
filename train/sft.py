"""`python -m train.sft experiment=quickstart`: the supervised warm start alone, then a held-out evaluation."""

from __future__ import annotations

import sys

from configs.errors import refusals
from configs.load import main_config
from train.conclude import conclude
from train.plan import describe
from train.preflight import preflight
from train.run import Run
from train.warm_start import warm_start


def main() -> int:
    config = main_config(sys.argv[1:], preflight)
    if config.dry_run:
        print(describe(config))
        return 0
    with refusals(), Run(config) as run:
        if warm_start(run):
            run.publish(0)
            run.evaluate()
    return conclude(run)


if __name__ == "__main__":
    sys.exit(main())
