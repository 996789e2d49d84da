"""`python -m train.sft experiment=quickstart`: the supervised warm start on its own, with a held-out evaluation after it."""

from __future__ import annotations

import sys

from configs.load import main_config
from train.plan import describe
from train.preflight import checked
from train.run import Run
from train.warm_start import warm_start


def main() -> int:
    config = main_config(sys.argv[1:], checked)
    if config.dry_run:
        print(describe(config))
        return 0
    with Run(config) as run:
        if warm_start(run):
            run.publish(0)
            run.evaluate()
    return run.conclude()


if __name__ == "__main__":
    sys.exit(main())
