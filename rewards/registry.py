"""Look verifiers up by name: the built-in ones, and a user's own by dotted path."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import asdict
from typing import NamedTuple

from lightning_cispo.rewards import code, logic, math
from lightning_cispo.rewards.answer import final_text, same_value
from lightning_cispo.rewards.code import CodeOptions
from lightning_cispo.rewards.isolated import IsolatedPool
from lightning_cispo.rewards.judgement import Call, Decision
from lightning_cispo.rewards.math import MathOptions
from lightning_cispo.rewards.verdict import Problem, Response


class Options(NamedTuple):
    """Settings of the built-in verifiers."""

    code: CodeOptions = CodeOptions()
    math: MathOptions = MathOptions()


Judge = Callable[[Problem, Response, Options], "Decision | Call"]

_DOTTED = re.compile(r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")


def _exact(problem: Problem, response: Response, _: Options) -> Decision:
    answer = final_text(response.text)
    if answer is None:
        return Decision(False, "no answer after </think>")
    return Decision(True) if same_value(answer, problem.answer) else Decision(False, "not the answer")


def _by_model(problem: Problem, response: Response, _: Options) -> Decision:
    """Handle the cases that need no judge model. `Grader` owns the client and sends it the rest."""
    if final_text(response.text) is None:
        return Decision(False, "no answer after </think>")
    raise ValueError("verifier 'judge': set rewards.judge.url and rewards.judge.model")


VERIFIERS: dict[str, Judge] = {
    "code": lambda problem, response, options: code.judge(problem, response.text, options.code),
    "exact": _exact,
    "judge": _by_model,
    "logic": lambda problem, response, _: logic.judge(problem, response.text),
    "math": lambda problem, response, options: math.judge(problem.answer, response.text, options.math),
}


def judge(problem: Problem, response: Response, options: Options) -> Decision | Call:
    """Return what the problem's verifier decides at once, or the call that will decide.

    Raises: ValueError for an unknown name, and whatever a problem that cannot be judged leads to.
    """
    if problem.verifier in VERIFIERS:
        return VERIFIERS[problem.verifier](problem, response, options)
    if not _DOTTED.fullmatch(problem.verifier):
        raise ValueError(_unknown(problem.verifier))
    module = problem.verifier.partition(":")[0]
    return Call("lightning_cispo.rewards.user:call", (problem.verifier, asdict(problem), asdict(response)), (module,))


def check_verifier(name: str, min_isolation: str = "rlimits") -> str | None:
    """Return one line that says why a verifier cannot be used, or None.

    A user's module is imported in a process apart; for code a sandbox of at least `min_isolation` is started there.
    """
    if name == "code":
        wrong = _failure("lightning_cispo.rewards.code_runner:level", min_isolation)
        return wrong and f"verifier 'code': {wrong}"
    if name in VERIFIERS:
        return None
    if not _DOTTED.fullmatch(name):
        return _unknown(name)
    wrong = _failure("lightning_cispo.rewards.user:resolvable", name, name.partition(":")[0])
    return wrong and f"verifier {name!r} can't be loaded: {wrong}"


def _failure(function: str, argument: str, *modules: str) -> str | None:
    """Call a function in a process of its own. Returns what failed, also by killing that process, or None."""
    with IsolatedPool(timeout_s=60.0) as pool:
        error = pool.submit(function, [argument], modules).exception()
    return None if error is None else " ".join(str(error).split())


def _unknown(name: str) -> str:
    return f"unknown verifier {name!r}: one of {', '.join(sorted(VERIFIERS))}, or 'package.module:function'"
