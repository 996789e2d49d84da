"""The command `cispo`: a table of subcommands, each imported when it is named."""

from __future__ import annotations

import importlib
import os
import signal
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import NamedTuple


class Command(NamedTuple):
    module: str  # below lightning_cispo; its main() takes the arguments and returns an exit code
    help: str
    leading: tuple[str, ...] = ()  # arguments put before the user's


COMMANDS = {
    "train": Command("train.__main__", "reinforcement learning: warm start, CISPO, evaluation, report"),
    "sft": Command("train.sft", "the supervised warm start alone, then an evaluation"),
    "evaluate": Command("train.evaluate", "pass@1 and pass@k of a run, a checkpoint or a Hugging Face folder"),
    "serve": Command("model.serve.__main__", "an HTTP server in OpenAI's protocol"),
    "report": Command("train.report.__main__", "write a run's report.html again"),
    "describe": Command("model.describe", "parameters, memory and FLOPs of a model"),
    "grade": Command("rewards.__main__", "the verdict on one response", ("grade",)),
    "bench": Command("rewards.__main__", "the verdicts on a file of responses, with throughput", ("bench",)),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the subcommand that the first argument names; return its exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if not given or given[0] in ("-h", "--help"):
        print(_usage())
        return 0 if given else 2
    if given[0] == "--version":
        print(f"cispo {_version()}")
        return 0
    command = COMMANDS.get(given[0])
    if command is None:
        print(f"error: {given[0]}: must be one of {', '.join(COMMANDS)}; cispo --help says more", file=sys.stderr)
        return 2
    _append_working_directory()
    try:
        module = importlib.import_module(f"lightning_cispo.{command.module}")
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] == "lightning_cispo":
            raise
        print(
            f"error: cispo {given[0]} needs the package {error.name}: pip install 'lightning-cispo[train]'",
            file=sys.stderr,
        )
        return 2
    try:
        return module.main([*command.leading, *given[1:]]) or 0
    except KeyboardInterrupt:  # before there was a run or a server that handles it
        print("stopped by SIGINT", file=sys.stderr)
        return 128 + signal.SIGINT


def _append_working_directory() -> None:
    """Make a user's modules importable, such as a verifier `mine:judge`, after everything that is installed.

    First on the path, a `datasets.py` there would take the place of the library.
    """
    if os.getcwd() not in sys.path and "" not in sys.path:
        sys.path.append(os.getcwd())


def _version() -> str:
    try:
        return version("lightning-cispo")
    except PackageNotFoundError:  # run from a checkout's folder on the path, not installed
        return "not installed"


def _usage() -> str:
    lines = ["usage: cispo COMMAND key=value ...", "", "commands"]
    lines += [f"  {name:<10}{command.help}" for name, command in COMMANDS.items()]
    return "\n".join([*lines, "", "cispo COMMAND --help lists the command's keys."])


if __name__ == "__main__":
    sys.exit(main())
