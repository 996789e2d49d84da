"""Verifiers by name: the built-in ones, and a user's own by dotted path."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import asdict

from rewards import logic, math
from rewards.answer import final_text, same_value
from rewards.isolated import CallRaised, IsolatedPool
from rewards.judgement import Call, Decision
from rewards.verdict import Problem, Response

Judge = Callable[[Problem, Response], "Decision | Call"]

_DOTTED = re.compile(r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")


def _exact(problem: Problem, response: Response) -> Decision:
    answer = final_text(response.text)
    if answer is None:
        return Decision(False, "no answer after </think>")
    return Decision(True) if same_value(answer, problem.answer) else Decision(False, "not the answer")


VERIFIERS: dict[str, Judge] = {
    "exact": _exact,
    "logic": lambda problem, response: logic.judge(problem, response.text),
    "math": lambda problem, response: math.judge(problem.answer, response.text),
}


def judge(problem: Problem, response: Response) -> Decision | Call:
    """What the problem's verifier says at once. Raises ValueError for a name that there is not."""
    if problem.verifier in VERIFIERS:
        return VERIFIERS[problem.verifier](problem, response)
    if not _DOTTED.fullmatch(problem.verifier):
        raise ValueError(_unknown(problem.verifier))
    module = problem.verifier.partition(":")[0]
    return Call("rewards.user:call", (problem.verifier, asdict(problem), asdict(response)), (module,))


def check_verifier(name: str) -> str | None:
    """One line that says why there is no such verifier, or None. A user's module is imported in a process apart."""
    if name in VERIFIERS:
        return None
    if not _DOTTED.fullmatch(name):
        return _unknown(name)
    with IsolatedPool() as pool:
        try:
            pool.submit("rewards.user:resolvable", [name], [name.partition(":")[0]]).result()
        except CallRaised as error:
            return f"verifier {name!r} can't be loaded: {error}"
    return None


def _unknown(name: str) -> str:
    return f"unknown verifier {name!r}: one of {', '.join(sorted(VERIFIERS))}, or 'package.module:function'"
