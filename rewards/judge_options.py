"""Define what a user says about a judge, and check it before a run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Any
from urllib.parse import urlsplit

from lightning_cispo.rewards.secret import Secret

_FOLDER = Path(__file__).resolve().parents[1] / "configs" / "judge"
_DEFAULT_VARIABLE = "OPENAI_API_KEY"


@dataclass(frozen=True)
class JudgeOptions:
    """Hold the settings of a judge.

    `url` ends before /chat/completions; the key is read from the environment variable `key_variable`. `template` is a
    name in configs/judge or a file: text with `$question`, `$reference`, `$response` and `$nonce`, or for `pairwise`
    with `$question`, `$first`, `$second` and `$nonce`; empty: grades, or pairwise. `bias_threshold` is a correlation
    over the last `bias_window` answers.
    """

    url: str
    model: str
    template: str = ""
    pairwise: bool = False
    key_variable: str = _DEFAULT_VARIABLE
    timeout_s: float = 120.0  # for one answer: all requests and the waits between them
    retries: int = 4
    backoff_s: float = 1.0  # before the first retry; doubled before each further one
    budget: int = 1_000_000  # requests, retries included
    cache: int = 10_000  # verdicts kept
    concurrency: int = 16
    max_tokens: int = 1024
    bias_threshold: float = 0.3
    bias_window: int = 1000

    def text(self) -> str:
        """Return the template's text. Raises OSError, and ValueError for text that is not UTF-8."""
        name = self.template or ("pairwise" if self.pairwise else "grades")
        named = _FOLDER / f"{name}.txt"
        return (named if named.is_file() else Path(name).expanduser()).read_text(encoding="utf-8")

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yield (field, what is wrong with it) for all that would fail at the first request."""
        if wrong := _url_problem(self.url):
            yield "url", wrong
        if wrong := self._template_problem():
            yield "template", wrong
        key = Secret(self.key_variable)
        if wrong := key.problem():
            yield "key_variable", wrong
        elif not key and self.key_variable != _DEFAULT_VARIABLE:
            yield "key_variable", "this environment variable is not set"

    def _template_problem(self) -> str | None:
        try:
            template = Template(self.text())
        except (OSError, ValueError) as error:
            return f"neither a name in configs/judge nor a file of text: {getattr(error, 'strerror', None) or error}"
        answers = {"first", "second"} if self.pairwise else {"response"}
        allowed = {"question", "nonce", *answers} | (set() if self.pairwise else {"reference"})
        found = set()
        for match in template.pattern.finditer(template.template):
            if match["invalid"] is not None:
                return "a $ that begins no placeholder is written $$"
            found.add(match["named"] or match["braced"])
        found.discard(None)
        if unknown := sorted(found - allowed):
            return f"has ${unknown[0]}; with pairwise={str(self.pairwise).lower()} there are {_listed(allowed)}"
        if missing := sorted({"nonce", *answers} - found):
            return (
                f"lacks ${missing[0]}; with pairwise={str(self.pairwise).lower()} it needs {_listed(answers)}, $nonce"
            )
        return None


def check_judge(options: Mapping[str, Any]) -> str | None:
    """Return the first problem of a judge's settings as `field=value: what is wrong`, or None."""
    judge = JudgeOptions(**options)
    for name, wrong in judge.problems():
        shown = str(getattr(judge, name))
        if not shown.isprintable() or (name == "url" and set("@?#") & set(shown)):
            shown = "..."  # may hold a key, or several lines
        return f"{name}={shown}: {wrong}"
    return None


def _url_problem(url: str) -> str | None:
    right = "must be http(s)://host[:port]/path, as in http://localhost:8000/v1"
    try:
        parts = urlsplit(url)
        named = parts.scheme in ("http", "https") and parts.hostname and (parts.port is None or parts.port > 0)
    except ValueError:
        return right
    if not named or any(character.isspace() or not character.isprintable() for character in url):
        return right
    if parts.path.rstrip("/").endswith("/chat/completions"):
        return f"{right}; it ends before /chat/completions"
    if parts.username is not None or parts.query or parts.fragment:
        return f"{right}; without user, password and query, since a key belongs into the environment variable"
    return None


def _listed(names: set[str]) -> str:
    return ", ".join(f"${name}" for name in sorted(names))
