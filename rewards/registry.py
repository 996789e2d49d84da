"""Verifiers by name: the built-in ones, and a user's own by dotted path."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import asdict

from lightning_cispo.rewards import code, logic, math
from lightning_cispo.rewards.answer import final_text, same_value
from lightning_cispo.rewards.isolated import CallRaised, CallTimeout, IsolatedPool
from lightning_cispo.rewards.judgement import Call, Decision
from lightning_cispo.rewards.verdict import Problem, Response

Judge = Callable[[Problem, Response, code.CodeOptions], "Decision | Call"]

_DOTTED = re.compile(r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")


def _exact(problem: Problem, response: Response, _: code.CodeOptions) -> Decision:
    answer = final_text(response.text)
    if answer is None:
        return Decision(False, "no answer after </think>")
    return Decision(True) if same_value(answer, problem.answer) else Decision(False, "not the answer")


def _by_model(problem: Problem, response: Response, _: code.CodeOptions) -> Decision:
    """What needs no model: the rest is `Grader`'s to ask, which has one."""
    if final_text(response.text) is None:
        return Decision(False, "no answer after </think>")
    raise ValueError("verifier 'judge': set rewards.judge.url and rewards.judge.model")


VERIFIERS: dict[str, Judge] = {
    "code": lambda problem, response, options: code.judge(problem, response.text, options),
    "exact": _exact,
    "judge": _by_model,
    "logic": lambda problem, response, _: logic.judge(problem, response.text),
    "math": lambda problem, response, _: math.judge(problem.answer, response.text),
}


def judge(problem: Problem, response: Response, options: code.CodeOptions) -> Decision | Call:
    """What the problem's verifier says at once. Raises ValueError for a name that there is not,
    and for a problem whose tests can't be used."""
    if problem.verifier in VERIFIERS:
        return VERIFIERS[problem.verifier](problem, response, options)
    if not _DOTTED.fullmatch(problem.verifier):
        raise ValueError(_unknown(problem.verifier))
    module = problem.verifier.partition(":")[0]
    return Call("lightning_cispo.rewards.user:call", (problem.verifier, asdict(problem), asdict(response)), (module,))


def check_verifier(name: str, min_isolation: str = "rlimits") -> str | None:
    """One line that says why there is no such verifier, or None. A user's module is imported in a process apart,
    for code a sandbox of at least `min_isolation` is started there."""
    if name == "code":
        return _check_sandbox(min_isolation)
    if name in VERIFIERS:
        return None
    if not _DOTTED.fullmatch(name):
        return _unknown(name)
    with IsolatedPool() as pool:
        try:
            pool.submit("lightning_cispo.rewards.user:resolvable", [name], [name.partition(":")[0]]).result()
        except CallRaised as error:
            return f"verifier {name!r} can't be loaded: {error}"
    return None


def _check_sandbox(min_isolation: str) -> str | None:
    with IsolatedPool(timeout_s=60.0) as pool:
        try:
            pool.submit("lightning_cispo.rewards.code_runner:level", [min_isolation]).result()
        except (CallRaised, CallTimeout) as error:
            return f"verifier 'code': {error}"
    return None


def _unknown(name: str) -> str:
    return f"unknown verifier {name!r}: one of {', '.join(sorted(VERIFIERS))}, or 'package.module:function'"
