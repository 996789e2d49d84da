"""A picture of the page's curves, by a headless Chromium where there is one."""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from pathlib import Path

WIDTH = 1280
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --disable-extensions --disable-dev-shm-usage --hide-scrollbars"
).split()


def find_chromium() -> str | None:
    """The path of a Chromium or Chrome, None where there is none."""
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    return next((path for path in map(shutil.which, names) if path), None)


def write_screenshot(report: Path, image: Path) -> Path:
    """Summary and main curves of `report` as a PNG, 1280 pixels wide. Raises RuntimeError without a Chromium."""
    browser = find_chromium()
    if browser is None:
        raise RuntimeError("no chromium or google-chrome on the PATH to take the picture with")
    page = report.resolve().as_uri() + "?picture"
    with tempfile.TemporaryDirectory() as profile:

        def chromium(*arguments: str) -> str:
            command = [browser, *FLAGS, f"--user-data-dir={profile}", *arguments, page]
            return subprocess.run(command, check=True, capture_output=True, text=True, timeout=120).stdout

        drawn = re.search(r'data-height="(\d+)"', chromium(f"--window-size={WIDTH},1000", "--dump-dom"))
        if drawn is None:
            raise RuntimeError(f"{report}: the page did not draw itself")
        chromium(f"--window-size={WIDTH},{drawn[1]}", f"--screenshot={image.resolve()}")
    return image
