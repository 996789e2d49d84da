"""The two commands, as somebody would type them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lightning_cispo.rewards.__main__ import main
from lightning_cispo.rewards.grader import Grader
from lightning_cispo.rewards.rules import box_score, language_score, length_score, tools_score
from lightning_cispo.rewards.verdict import Problem, Response


def test_grade_prints_the_verdict_and_why(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    response = tmp_path / "response.txt"
    response.write_text(r"<think>\boxed{3}</think> So \boxed{\frac{1}{2}}.")
    assert main(["grade", "task=math", "gold=0.5", f"response_file={response}"]) == 0
    verdict = json.loads(capsys.readouterr().out)
    assert (verdict["reward"], verdict["status"], verdict["parts"]) == (1.0, "pass", {"correct": 1.0})
    assert main(["grade", "gold=5", r"response=\boxed{6}"]) == 1
    assert "'6' is not '5'" in json.loads(capsys.readouterr().out)["error"]
    tests = json.dumps({"tests": ["assert f(1) == 2"]})
    assert main(["grade", "task=code", f"gold={tests}", "response=def f(x): return x + 1"]) == 0


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["grade", r"gold=\frac{", "response=5"], "gold: not a mathematical"),
        (["grade", "gold=5"], "give one of response="),
        (["grade", "gold=5", "response_file=nowhere.txt"], "nowhere.txt"),
        (["grade", "task=maths", "gold=5", "response=5"], "unknown verifier"),
        (["grade", "task=code", "gold=5", "response=5"], "must be an object"),
        (["bench", "processes=2"], "data=FILE"),
        (["bench", "dta=x"], "must be one of"),
        (["grade", "--gold", "5"], "--gold: must be one of task=..."),
        (["greade"], "must be grade or bench"),
    ],
)
def test_bad_input_is_one_line(arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    said = capsys.readouterr().err
    assert says in said and said.count("\n") == 1


def test_bench_reports_throughput_and_disagreements(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, other = tmp_path / "data.jsonl", tmp_path / "other.jsonl"
    data.write_text("".join(json.dumps({"gold": "5", "response": rf"\boxed{{{i}}}"}) + "\n" for i in range(10)))
    other.write_text("".join(json.dumps({"correct": i in (5, 7)}) + "\n" for i in range(10)))
    assert main(["bench", f"data={data}", f"against={other}", "processes=1"]) == 1
    said = capsys.readouterr().out
    assert "10 responses in" in said and "pass 1, fail 9, timeout 0, infra_error 0" in said
    assert "1 disagreements" in said and "line 8: wrong here" in said
    data.write_text(json.dumps({"gold": "5", "response": "5"}) + "\n")
    assert main(["bench", f"data={data}", "task=tests.rewards.verifiers:raises"]) == 0
    assert (
        "tests.rewards.verifiers:raises failed 1 times, at last: the verifier failed: KeyError"
        in capsys.readouterr().out
    )
    data.write_text('{"gold": "5"}\n')
    assert main(["bench", f"data={data}"]) == 2
    assert "line 1: needs response" in capsys.readouterr().err
    data.write_text('{"gold": "5", "response": ""}\n{"gold": "\\\\frac{", "response": ""}\n')
    assert main(["bench", f"data={data}"]) == 2
    assert "line 2: not a mathematical" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "box", "tools"),
    [
        (r"\boxed{5}", 1.0, 1.0),
        (r"<think>\boxed{4}</think>\boxed{\frac{1}{2}}", 1.0, 1.0),
        (r"\boxed{4}\boxed{5}", 0.0, 1.0),
        (r"\boxed{5", 0.0, 1.0),
        ("5", 0.0, 1.0),
        ('<tool_calls>\n{"name": "f", "arguments": {}}\n</tool_calls>', 0.0, 1.0),
        ('<think>a</think><tool_calls>\n{"name": "f", "arguments": {"a": 1}}\n</tool_calls>', 0.0, 1.0),
        ('<tool_calls>\n{"name": "f"}\n</tool_calls>', 0.0, 0.0),
        ('<tool_calls>\n{"name": 1, "arguments": {}}\n</tool_calls>', 0.0, 0.0),
        ("<tool_calls>\n</tool_calls>", 0.0, 0.0),
        ("<tool_calls>\n" + "[" * 50_000 + "\n</tool_calls>", 0.0, 0.0),
        ("<tool_calls>", 0.0, 0.0),
    ],
)
def test_rules_on_form(text: str, box: float, tools: float) -> None:
    assert (box_score(text), tools_score(text)) == (box, tools)


def test_language_and_length() -> None:
    assert language_score("déjà vu 5", "latin") == 1.0
    assert language_score("ab\u4f60\u597d", "latin") == language_score("ab\u4f60\u597d", "cjk") == 0.5
    assert language_score("1 + 1 = 2", "cyrillic") == 1.0
    assert [length_score(tokens, 10, 20) for tokens in (9, 10, 20, 21)] == [-1.0, 0.0, 0.0, -1.0]
    assert length_score(10**6, 0, 0) == 0.0


def test_rules_weigh_in_beside_raw_correctness() -> None:
    options = {
        "box_weight": 0.1,
        "language_weight": 0.2,
        "length_weight": 0.5,
        "length_min_tokens": 5,
        "tools_weight": 0.0,
    }
    with Grader(**options) as grader:  # type: ignore[arg-type]
        verdict = grader.grade(Problem("?", "5", "math", "t"), Response(r"ab \boxed{5} да", 3, "eos", 9))
    assert verdict.correct
    assert verdict.parts == {"correct": 1.0, "box": 1.0, "language": pytest.approx(7 / 9), "length": -1.0}
    assert verdict.reward == pytest.approx(1.0 + 0.1 + 0.2 * 7 / 9 - 0.5)
