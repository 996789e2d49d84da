"""Answers to generated problems: 1.0 or nothing."""

from __future__ import annotations

from lightning_cispo.rewards.answer import final_text, same_value
from lightning_cispo.rewards.judgement import Call, Decision
from lightning_cispo.rewards.logic.families import ADMITTED, Judge
from lightning_cispo.rewards.logic.forms import same_form
from lightning_cispo.rewards.logic.puzzles import PUZZLES
from lightning_cispo.rewards.verdict import Problem

# No admitted family has longer answers; a scorer is not fed a policy's whole monologue.
MAX_ANSWER_CHARS = 20_000


def judge(problem: Problem, text: str) -> Decision | Call:
    """Judge what stands after the last `</think>`; without a think block, the whole text."""
    answer = final_text(text)
    if answer is None:
        return Decision(False, "no answer after </think>")
    if problem.task in PUZZLES:
        if len(answer) > MAX_ANSWER_CHARS:
            return Decision(False, f"answer of more than {MAX_ANSWER_CHARS} characters")
        right = PUZZLES[problem.task].check(answer, problem.entry["data"])
        return Decision(right, "" if right else "not a solution")
    if same_value(answer, problem.answer):
        return Decision(True)
    if ADMITTED[problem.task] is Judge.exact:
        return Decision(False, "not the answer")
    if len(answer) > MAX_ANSWER_CHARS:
        return Decision(False, f"answer of more than {MAX_ANSWER_CHARS} characters")
    if ADMITTED[problem.task] is Judge.form:
        right = same_form(problem.task, answer, problem.answer)
        return Decision(right, "" if right else "not the answer")
    args = (problem.task, problem.entry["params"], answer, problem.answer, problem.entry["metadata"])
    return Call("lightning_cispo.rewards.logic.library:score", args)
