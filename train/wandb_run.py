"""The run's copy in W&B: the same names and values as `metrics.jsonl`."""

from __future__ import annotations

import json
import os
import secrets
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from lightning_cispo.configs.schema import RunConfig, TrackingMode
from lightning_cispo.model.aside import write_text_aside
from lightning_cispo.train.wandb_file import history

FINISH_TIMEOUT_S = 30.0  # what is not uploaded by then stays in the run folder, for `wandb sync`


class WandbRun:
    """One W&B run, kept under `run_dir/wandb/`; its id, in `run_dir/wandb_id`, outlives a stop and a resume.

    Offline mode opens no connection. `online` without a login that W&B confirms becomes offline, and says so on stderr.
    """

    def __init__(self, run_dir: Path, config: RunConfig, lines: Sequence[Mapping[str, Any]] = ()) -> None:
        """`lines`: what `metrics.jsonl` holds already. Those that W&B never got, as the run was killed, follow now."""
        # Read by wandb while it is imported; its error reports go out in offline mode too.
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        import wandb

        tracking = config.tracking
        self._run = wandb.init(
            dir=str(run_dir.resolve()),
            mode=_mode(tracking.mode),
            project=tracking.project,
            entity=tracking.entity,
            name=config.name,
            id=_run_id(run_dir),
            resume="allow",
            config=json.loads(json.dumps(asdict(config))),
            settings=wandb.Settings(
                silent=True,
                console="off",  # progress bars redraw themselves; captured, they are megabytes
                disable_git=True,
                save_code=False,
                finish_timeout=FINISH_TIMEOUT_S,
            ),
        )
        self._run.define_metric("*", step_metric="step")
        self._run.define_metric("warm_start/*", step_metric="warm_start/step")
        # W&B drops a line whose internal step has gone back, and warm start's lines all have RL step 0: count lines.
        kept = _kept_steps(run_dir)
        self._next = max([self._run.step, *(step + 1 for step in kept.values())])
        uploaded = self._run.step if self._run.settings.mode == "online" else self._next
        for line in lines:
            if kept.get(_identity(line), uploaded) >= uploaded:
                self.log(line)

    def log(self, line: Mapping[str, Any]) -> None:
        self._run.log(dict(line), step=self._next)
        self._next += 1

    def close(self, exit_code: int) -> None:
        """Ends W&B's service process too; takes FINISH_TIMEOUT_S at most."""
        import wandb

        self._run.finish(exit_code=exit_code)
        wandb.teardown()


def _kept_steps(run_dir: Path) -> dict[tuple[Any, ...], int]:
    """The internal step of every line that W&B's service has written to the run folder, by the line's identity."""
    files = sorted((run_dir / "wandb").glob("*run-*/run-*.wandb"), key=lambda path: path.parent.name)
    return {_identity(line): int(line["_step"]) for file in files for line in history(file) if "_step" in line}


def _identity(line: Mapping[str, Any]) -> tuple[Any, ...]:
    """What tells a line of `metrics.jsonl` from all others: steps and the time it was written."""
    return tuple(line.get(name) for name in ("step", "warm_start/step", "time/wall_s"))


def _mode(wanted: TrackingMode) -> Literal["online", "offline"]:
    if wanted is not TrackingMode.online:
        return "offline"
    import wandb

    try:
        problem = "" if wandb.login(prompt=False) else "not logged in (`wandb login`)"
    except wandb.errors.AuthenticationError as error:  # a bad key, or nobody there to check it
        problem = str(error)
    if not problem:
        return "online"
    print(f"tracking.mode=online: {problem}; tracking offline, for `wandb sync`", file=sys.stderr)
    return "offline"


def _run_id(run_dir: Path) -> str:
    path = run_dir / "wandb_id"
    if not path.exists():
        write_text_aside(path, secrets.token_hex(4) + "\n")
    return path.read_text().strip()
