"""Makes a run's report again: `python -m train.report runs/<name> [--screenshot curves.png]`."""

import argparse
from pathlib import Path

from train.report import write_report, write_screenshot


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m train.report", description="Write report.html into a run folder.")
    parser.add_argument("run_dir", type=Path, help="runs/<name>")
    parser.add_argument("--screenshot", type=Path, metavar="PNG", help="also a picture of the curves, by Chromium")
    arguments = parser.parse_args()
    try:
        report = write_report(arguments.run_dir)
        print(report)
        if arguments.screenshot:
            print(write_screenshot(report, arguments.screenshot))
    except (FileNotFoundError, RuntimeError) as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
