"""Try a verifier: `cispo grade` prints one verdict with its parts and why; `cispo bench` grades a file of responses."""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lightning_cispo.rewards.code import KEYS, check_answer, check_tests
from lightning_cispo.rewards.grader import Grader, check_gold, check_golds, check_verifier
from lightning_cispo.rewards.verdict import Problem, Response, Status

_SHOWN = 20  # disagreements printed
_DEFAULTS = {
    "grade": {"task": "math", "gold": "", "gold_file": "", "response": "", "response_file": ""},
    "bench": {"data": "", "task": "math", "processes": "2", "against": ""},
}
_USAGE = """usage: cispo grade key=value ...    one response; prints its verdict
       cispo bench key=value ...    a file of responses; prints throughput and disagreements

grade
  task=math             math, code, exact, or package.module:function
  gold=TEXT             the right answer; for code: its tests as JSON
  gold_file=FILE
  response=TEXT         the response
  response_file=FILE    - reads standard input
bench
  data=FILE             JSON lines with response and gold
  task=math
  processes=2           isolated processes
  against=FILE          JSON lines with correct, to compare verdicts with"""


def main(arguments: Sequence[str] | None = None) -> int:
    """`grade` or `bench` with settings; `arguments` are those of the command line unless given.

    Exit code: 0 right (grade) or done (bench), 1 wrong or disagreement, 2 bad input or infrastructure.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    command, rest = (given[0], given[1:]) if given else ("", [])
    if command not in _DEFAULTS or {"-h", "--help"} & set(rest):
        asked = command in _DEFAULTS or command in ("", "-h", "--help")
        print(_USAGE if asked else f"error: {command}: must be grade or bench", file=None if asked else sys.stderr)
        return 0 if asked else 2
    try:
        settings = _settings(command, rest)
        return _grade(settings) if command == "grade" else _bench(settings)
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def _settings(command: str, arguments: Sequence[str]) -> dict[str, str]:
    """Raises ValueError."""
    settings = dict(_DEFAULTS[command])
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if not equals or key not in settings:
            raise ValueError(f"{argument}: must be one of {', '.join(f'{name}=...' for name in settings)}")
        settings[key] = value
    return settings


def _grade(settings: dict[str, str]) -> int:
    gold = _text("gold", settings)
    text = _text("response", settings)
    _check(settings["task"], gold, "gold")
    problem = Problem("", gold, settings["task"], "try")
    with Grader() as grader:
        verdict = grader.grade(problem, Response(text, len(text), "eos", len(text) + 1))
    print(json.dumps(asdict(verdict), indent=2, ensure_ascii=False))
    return 2 if verdict.reward is None else int(not verdict.correct)


def _text(name: str, settings: dict[str, str]) -> str:
    given, file = settings[name], settings[f"{name}_file"]
    if bool(given) == bool(file):
        raise ValueError(f"give one of {name}=... and {name}_file=...")
    if given:
        return given
    return sys.stdin.read() if file == "-" else Path(file).read_text()


def _check(verifier: str, gold: str, where: str) -> None:
    wrong = check_verifier(verifier)
    if wrong is None and verifier == "math":
        wrong = check_gold(gold)
    if wrong is None and verifier == "code":
        wrong = check_answer(gold)
    if wrong:
        raise ValueError(f"{where}: {wrong}")


def _bench(settings: dict[str, str]) -> int:
    if not settings["data"] or not settings["processes"].isdecimal():
        raise ValueError("bench needs data=FILE, and processes as a number")
    rows = _rows(Path(settings["data"]), ("response",))
    problems = [_problem(row, settings["task"]) for row in rows]
    _check_rows(settings["data"], settings["task"], problems)
    with Grader(processes=int(settings["processes"])) as grader:
        began = time.monotonic()
        responses = [Response(row["response"], len(row["response"]), "eos", len(row["response"]) + 1) for row in rows]
        verdicts = [future.result() for future in map(grader.submit, problems, responses)]
        seconds = time.monotonic() - began
        stats = grader.stats()
    counts = Counter(verdict.status for verdict in verdicts)
    speed, latency_ms = len(rows) / seconds, stats["latency_mean_s"] * 1000
    print(f"{len(rows)} responses in {seconds:.2f} s: {speed:.1f} a second, {latency_ms:.1f} ms each")
    print(", ".join(f"{status.value} {counts[status]}" for status in Status))
    for name, (count, reason) in stats["failures"].items():
        print(f"  {name} failed {count} times, at last: {reason}")
    if not settings["against"]:
        return 0
    others = _rows(Path(settings["against"]), ("correct",))
    if len(others) != len(rows):
        raise ValueError(f"{settings['against']}: {len(others)} rows, but data has {len(rows)}")
    apart = [
        i for i, (verdict, other) in enumerate(zip(verdicts, others), 1) if verdict.correct != bool(other["correct"])
    ]
    print(f"{len(apart)} disagreements with {settings['against']}")
    for i in apart[:_SHOWN]:
        print(f"  line {i}: {'right' if verdicts[i - 1].correct else 'wrong'} here; {verdicts[i - 1].error}")
    return int(bool(apart))


def _check_rows(file: str, task: str, problems: list[Problem]) -> None:
    if wrong := check_verifier(task):
        raise ValueError(wrong)
    found: list[str | None] = []
    if task == "math":
        found = check_golds([problem.answer for problem in problems])
    elif task == "code":
        found = [check_tests(problem.entry) if problem.entry else check_answer(problem.answer) for problem in problems]
    for number, problem in enumerate(found, 1):
        if problem:
            raise ValueError(f"{file}: line {number}: {problem}")


def _rows(file: Path, keys: tuple[str, ...]) -> list[dict[str, Any]]:
    rows = []
    for number, line in enumerate(file.read_text().splitlines(), 1):
        try:
            row = json.loads(line)
        except ValueError as error:
            raise ValueError(f"{file}: line {number}: not JSON: {error}") from None
        if not isinstance(row, dict) or any(key not in row for key in keys):
            raise ValueError(f"{file}: line {number}: needs {', '.join(keys)}")
        rows.append(row)
    if not rows:
        raise ValueError(f"{file}: no rows")
    return rows


def _problem(row: dict[str, Any], task: str) -> Problem:
    has_tests = "tests" in row or "cases" in row
    entry: dict[str, Any] = {key: row[key] for key in KEYS if key in row} if has_tests else {}
    return Problem(str(row.get("prompt", "")), str(row.get("gold", "")), task, "bench", entry)


if __name__ == "__main__":
    sys.exit(main())
