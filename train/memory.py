"""Memory of the whole run on this machine."""

from __future__ import annotations

import re
from pathlib import Path

import psutil


def total_megabytes() -> float:
    """MiB held by this process and all its descendants, Ray's included; pages they share are counted once (PSS)."""
    total = 0
    for process in [psutil.Process(), *psutil.Process().children(recursive=True)]:
        try:
            text = Path(f"/proc/{process.pid}/smaps_rollup").read_text()
        except OSError:  # it ended meanwhile
            continue
        found = re.search(r"^Pss:\s+(\d+) kB", text, re.MULTILINE)
        total += int(found.group(1)) if found else 0
    return total / 1024
