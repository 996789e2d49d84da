"""Try a verifier: `python -m rewards grade ...` prints one verdict with its parts and why; `python -m rewards bench
data=...` grades a file of responses, reports throughput, and where another file of verdicts disagrees."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rewards.code import check_answer, check_tests
from rewards.grader import Grader, check_gold, check_golds, check_verifier
from rewards.verdict import Problem, Response, Status

_SHOWN = 20  # disagreements printed


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code: 0 right (grade) or done (bench), 1 wrong or disagreement, 2 bad input or infrastructure."""
    options = _parser().parse_args(arguments)
    try:
        return _grade(options) if options.command == "grade" else _bench(options)
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m rewards", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    grade = commands.add_parser("grade", help="one response")
    grade.add_argument("--task", default="math", help="math, code, exact, or package.module:function")
    grade.add_argument("--gold", help="the right answer; for code: its tests as JSON")
    grade.add_argument("--gold-file", type=Path)
    grade.add_argument("--response", help="the response's text")
    grade.add_argument("--response-file", type=Path, help="- reads standard input")
    bench = commands.add_parser("bench", help="a file of responses")
    bench.add_argument(
        "settings", nargs="+", metavar="key=value", help="data=FILE [task=math] [processes=2] [against=FILE]"
    )
    return parser


def _grade(options: argparse.Namespace) -> int:
    gold = _text("gold", options.gold, options.gold_file)
    text = _text("response", options.response, options.response_file)
    _check(options.task, gold, "gold")
    with Grader() as grader:
        verdict = grader.grade(Problem("", gold, options.task, "try"), Response(text, len(text), "eos", len(text) + 1))
    print(json.dumps(asdict(verdict), indent=2, ensure_ascii=False))
    return 2 if verdict.reward is None else int(not verdict.correct)


def _text(name: str, given: str | None, file: Path | None) -> str:
    if (given is None) == (file is None):
        raise ValueError(f"give one of --{name} and --{name}-file")
    if given is not None:
        return given
    assert file is not None
    return sys.stdin.read() if str(file) == "-" else file.read_text()


def _check(verifier: str, gold: str, where: str) -> None:
    wrong = check_verifier(verifier)
    if wrong is None and verifier == "math":
        wrong = check_gold(gold)
    if wrong is None and verifier == "code":
        wrong = check_answer(gold)
    if wrong:
        raise ValueError(f"{where}: {wrong}")


def _bench(options: argparse.Namespace) -> int:
    settings = {"task": "math", "processes": "2", "against": "", "data": ""}
    for setting in options.settings:
        key, equals, value = setting.partition("=")
        if not equals or key not in settings:
            raise ValueError(f"{setting}: must be one of {', '.join(f'{name}=...' for name in settings)}")
        settings[key] = value
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
        latency = grader.stats()["latency_mean_s"]
    counts = Counter(verdict.status for verdict in verdicts)
    print(f"{len(rows)} responses in {seconds:.2f} s: {len(rows) / seconds:.1f} a second, {latency * 1000:.1f} ms each")
    print(", ".join(f"{status.value} {counts[status]}" for status in Status))
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
    entry: dict[str, Any] = {
        key: row[key] for key in ("tests", "cases", "setup", "entry_point", "prelude") if key in row
    }
    return Problem(str(row.get("prompt", "")), str(row.get("gold", "")), task, "bench", entry)


if __name__ == "__main__":
    sys.exit(main())
