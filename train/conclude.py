"""The end of a program: the report, pass@1 before and after, how to go on."""

from __future__ import annotations

from lightning_cispo.train.console import summary_line
from lightning_cispo.train.failure import how_to_go_on
from lightning_cispo.train.report import write_report
from lightning_cispo.train.run import Run
from lightning_cispo.train.tracking import read_metrics


def conclude(run: Run, command: str) -> int:
    """Write the report and say what came of the run, how to go on last. Returns the exit code."""
    evaluations = [line for line in read_metrics(run.folder) if "eval/pass@1" in line]
    say = run.console.line
    if run.stop.signal is None and len(evaluations) > 1:
        say(summary_line(evaluations[0], evaluations[-1]))
    if best := run.checkpoints.best():
        say(f"best {best['metric']} {best['value']:.4g}: {run.folder / 'checkpoints' / best['checkpoint']}")
    say(f"report: {write_report(run.folder)}")
    if run.stop.signal is not None:
        say(f"stopped by {run.stop.signal.name}{how_to_go_on(run, command)}")
    return run.stop.exit_code
