"""`python -m train.evaluate checkpoint=runs/NAME data=quickstart`: pass@1, avg@k and pass@k of a checkpoint, with intervals."""

from __future__ import annotations

import sys

from configs.load import main_config
from model.generation.randomness import stream_key
from rl.accuracy import Estimate
from rl.summary import accuracy
from rl.types import Group
from rl.worker import Draw
from train.plan import describe
from train.preflight import checked_for_evaluation
from train.run import Run


def main() -> int:
    config = main_config(sys.argv[1:], checked_for_evaluation, data_shorthand="data.eval")
    if config.dry_run:
        print(describe(config))
        return 0
    assert config.checkpoint is not None  # checked above
    with Run(config) as run:
        run.learner.start(config.checkpoint, config.optimizer)
        run.publish(0)
        groups = run.evaluate()
    print(table(accuracy(groups)))
    return run.stop.exit_code
