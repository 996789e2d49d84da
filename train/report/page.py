"""Puts template, style, scripts and data together into one file."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path

from lightning_cispo.train.report.data import embed, read_run

HERE = Path(__file__).parent
SCRIPTS = ("format.js", "chart.js", "curves.js", "summary.js", "traces.js", "main.js")


def write_report(run_dir: Path) -> Path:
    """Writes `run_dir/report.html` from what the folder holds so far and returns its path. Works on unfinished runs.

    Raises FileNotFoundError where `run_dir` is no folder.
    """
    path = run_dir / "report.html"
    aside = path.with_suffix(".tmp")
    aside.write_text(render(read_run(run_dir)), encoding="utf-8")
    aside.replace(path)
    return path


def render(run: dict) -> str:
    """The page. Its policy lets only this very script run and no request leave, whatever the model wrote."""
    script = "'use strict';\n" + "\n".join((HERE / name).read_text(encoding="utf-8") for name in SCRIPTS)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    parts = {
        "{{policy}}": f"default-src 'none'; style-src 'unsafe-inline'; img-src data:; script-src 'sha256-{digest}'; "
        "base-uri 'none'; form-action 'none'",
        "{{style}}": (HERE / "page.css").read_text(encoding="utf-8"),
        "{{script}}": script,
        "{{data}}": embed(run),  # last: what it holds is never searched for the other marks
    }
    page = (HERE / "page.html").read_text(encoding="utf-8")
    for mark, text in parts.items():
        page = page.replace(mark, text)
    return page
