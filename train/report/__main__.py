"""Makes a run's report again: `cispo report runs/<name> [screenshot=curves.png]`."""

import sys
from collections.abc import Sequence
from pathlib import Path

from lightning_cispo.configs.errors import ConfigError, refusals
from lightning_cispo.train.report import write_report, write_screenshot

_USAGE = """usage: cispo report run=FOLDER [screenshot=PNG]

  run=runs/NAME           the run's folder; `cispo report runs/NAME` does too
  screenshot=curves.png   also a picture of the curves, made by Chromium"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Write report.html into a run's folder. `arguments` are those of the command line unless given."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if {"-h", "--help"} & set(given):
        print(_USAGE)
        return 0
    with refusals():
        run, screenshot = _settings(given)
        try:
            report = write_report(run)
            print(report)
            if screenshot:
                print(write_screenshot(report, Path(screenshot)))
        except (FileNotFoundError, RuntimeError) as error:
            raise ConfigError(str(error)) from None
    return 0


def _settings(arguments: list[str]) -> tuple[Path, str | None]:
    """Raises ConfigError."""
    settings: dict[str, str] = {}
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if not equals:
            key, value = "run", argument
        if key not in ("run", "screenshot") or argument.startswith("-"):
            raise ConfigError(f"{argument}: must be run=FOLDER or screenshot=PNG")
        settings[key] = value
    if not settings.get("run"):
        raise ConfigError("run=null: name a run's folder: cispo report runs/NAME")
    return Path(settings["run"]), settings.get("screenshot")


if __name__ == "__main__":
    sys.exit(main())
