"""One synchronous RL step, 64 responses of 64 tokens by a 3.9M-parameter network: generation, update, publication.

    python -m tests.benchmarks.rl_step [--peer trl] [--steps N] [--threads N] [--workers N] [--ranks N]

With the peer the two sides take turns step by step in one run, each with the same number of CPU threads.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import tempfile
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from lightning_cispo.train.cluster.session import available_cores
from tests.benchmarks.own_step import FULL, Layout, Size, own_step
from tests.benchmarks.timing import StepTime, table


def main(arguments: Sequence[str] | None = None, size: Size = FULL) -> tuple[list[StepTime], list[StepTime]]:
    """Print the table; return the timed steps of both sides."""
    options = _options(arguments)
    threads = options.threads
    layout = Layout(options.workers or min(threads, size.prompts), options.ranks or threads, threads)
    total = options.warm_up + options.steps
    ours: list[StepTime] = []
    peer: list[StepTime] = []
    finite = True
    with tempfile.TemporaryDirectory() as folder, own_step(Path(folder), layout, size, total) as step:
        if options.peer:
            os.environ["HF_HUB_OFFLINE"] = "1"
            from tests.benchmarks.trl_step import trl_steps

            model = step.run.config.model
            peer, finite = trl_steps(Path(folder), model, size, threads, total, lambda: ours.append(shown(step())))
        else:
            ours += [shown(step()) for _ in range(total)]
    ours, peer = ours[options.warm_up :], peer[options.warm_up :]
    print(_setting(layout, size, options))
    print(table(ours, peer))
    if not finite:
        print("\nThe peer's gradients were not finite and were zeroed before its optimizer step, untimed.")
    return ours, peer


def shown(step: StepTime) -> StepTime:
    """A step as it comes, on stderr."""
    print(f"ours: {step.generate_s:.3f} s generation, {step.update_s:.3f} s update", file=sys.stderr)
    return step


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", choices=["trl"])
    parser.add_argument("--steps", type=int, default=10, help="timed steps a side")
    parser.add_argument("--warm-up", type=int, default=2, help="steps before those")
    parser.add_argument("--threads", type=int, default=available_cores(), help="CPU threads of either side")
    parser.add_argument("--workers", type=int, default=0, help="our rollout workers; 0: one a thread")
    parser.add_argument("--ranks", type=int, default=0, help="our learner ranks; 0: one a thread")
    return parser.parse_args(arguments)


def _setting(layout: Layout, size: Size, options: argparse.Namespace) -> str:
    """What the figures hold for."""
    packages = ["torch", "deepspeed", "ray", "transformers", *(["trl"] if options.peer else [])]
    return "\n".join(
        [
            f"{size.prompts} prompts x {size.group_size} responses x {size.tokens} tokens, medians of {options.steps} "
            f"steps after {options.warm_up}",
            f"{platform.machine()} {_processor()}, {available_cores()} cores, load average {os.getloadavg()[0]:.1f}; "
            f"{layout.threads} threads a side; ours: {layout.workers} rollout workers, {layout.ranks} learner ranks",
            f"Python {platform.python_version()}, " + ", ".join(f"{name} {version(name)}" for name in packages),
            "",
        ]
    )


def _processor() -> str:
    """The processor's name, where Linux tells it."""
    info = Path("/proc/cpuinfo")
    names = [line for line in info.read_text().splitlines() if line.startswith("model name")] if info.exists() else []
    return names[0].split(":", 1)[1].strip() if names else platform.processor()


if __name__ == "__main__":
    main()
