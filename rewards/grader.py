"""Judge responses: the verifier's correctness, format and length, weighted and clipped."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from concurrent.futures import Future
from math import isfinite
from typing import Any

from lightning_cispo.rewards.answer import final_text, same_value
from lightning_cispo.rewards.code import CodeOptions
from lightning_cispo.rewards.format import format_score
from lightning_cispo.rewards.isolated import CallOutOfMemory, CallTimeout, IsolatedPool, cores
from lightning_cispo.rewards.judge import Judge, JudgeOptions
from lightning_cispo.rewards.judgement import Decision
from lightning_cispo.rewards.math import MathOptions, check_gold, check_golds
from lightning_cispo.rewards.overlong import overlong_penalty
from lightning_cispo.rewards.registry import Options, check_verifier, judge
from lightning_cispo.rewards.rules import box_score, language_score, length_score, tools_score
from lightning_cispo.rewards.tally import Tally
from lightning_cispo.rewards.verdict import Problem, Response, Status, Verdict, finite, masked

__all__ = ["Grader", "check_gold", "check_golds", "check_verifier"]


_log = logging.getLogger(__name__)


class Grader:
    """Grade from any thread. `reward = clip(sum of weight * part)` over the parts with a weight.

    `timeout_s` seconds and `memory_mb` MB are one verification's; an answer that needs more counts as wrong
    (status timeout, or fail with its reason), or a policy could escape its zeros by hanging the verifier. Where the
    verifier fails, whatever the reason, the reward is None. `verdict.correct` and `parts["correct"]` are the raw
    correctness whatever the weights.
    """

    def __init__(
        self,
        *,
        correct_weight: float = 1.0,
        format_weight: float = 0.0,
        overlong_weight: float = 0.0,
        overlong_cache_tokens: int = 0,
        clip_min: float = -1.0,
        clip_max: float = 1.0,
        box_weight: float = 0.0,
        tools_weight: float = 0.0,
        language_weight: float = 0.0,
        language: str = "latin",
        length_weight: float = 0.0,
        length_min_tokens: int = 0,
        length_max_tokens: int = 0,
        processes: int = 0,  # as many as there are cores
        timeout_s: float = 5.0,
        memory_mb: int = 1024,
        max_queue: int = 10_000,
        math: MathOptions | dict[str, Any] | None = None,
        code: CodeOptions | dict[str, Any] | None = None,
        judge: dict[str, Any] | None = None,
    ):
        if clip_min > clip_max:
            raise ValueError(f"clip_min={clip_min}: above clip_max={clip_max}")
        self.weights = {
            "correct": correct_weight,
            "format": format_weight,
            "overlong": overlong_weight,
            "box": box_weight,
            "tools": tools_weight,
            "language": language_weight,
            "length": length_weight,
        }
        for name, value in {**self.weights, "clip_min": clip_min, "clip_max": clip_max}.items():
            if not isfinite(value):
                raise ValueError(f"{name}={value}: must be finite")
        self._shapes: dict[str, Callable[[Response], float]] = {
            "format": lambda r: format_score(r.text),
            "overlong": lambda r: overlong_penalty(r.tokens, r.max_tokens, overlong_cache_tokens),
            "box": lambda r: box_score(r.text),
            "tools": lambda r: tools_score(r.text),
            "language": lambda r: language_score(r.text, language),
            "length": lambda r: length_score(r.tokens, length_min_tokens, length_max_tokens),
        }
        self.options = Options(
            code if isinstance(code, CodeOptions) else CodeOptions(**(code or {})),
            math if isinstance(math, MathOptions) else MathOptions(**(math or {})),
        )
        self.isolation: str | None = None  # level of the sandbox that has judged code
        self.clip_min, self.clip_max = clip_min, clip_max
        self._judge = Judge(JudgeOptions(**judge)) if judge and judge["url"] else None
        self._pool = IsolatedPool(processes or cores(), timeout_s, memory_mb, max_queue)
        self._tally = Tally()

    def submit(self, problem: Problem, response: Response) -> Future[Verdict]:
        """Return the future of a verdict. Neither it nor the future raises: what cannot be judged is masked.

        Waits for no verification, only for room while `max_queue` of them wait.
        """
        promise: Future[Verdict] = Future()
        promise.set_running_or_notify_cancel()  # a verification under way isn't cancelled
        began = time.monotonic()

        def settle(verdict: Callable[[], Verdict], latency_s: float | None = None) -> None:
            try:
                found = verdict()
            except Exception as error:  # a data row or a verifier is at fault, and the run goes on
                found = masked(error)
            self._tally.add(problem.verifier, found, latency_s)
            promise.set_result(found)

        try:
            begun = self._begin(problem, response)
        except Exception as error:
            failure = error
            settle(lambda: masked(failure))
            return promise
        if isinstance(begun, Decision):
            settle(lambda: self._verdict(response, {"correct": begun.correct, "error": begun.reason}))
        else:
            self._tally.waited(self._pool.depth())
            begun.add_done_callback(lambda call: settle(lambda: self._judged(response, call), time.monotonic() - began))
        return promise

    def _begin(self, problem: Problem, response: Response) -> Decision | Future[Any]:
        """Decide at once, or begin the call that will. Raises whatever a row or a closed pool leads to."""
        answer = final_text(response.text)
        if self._judge is not None and problem.verifier == "judge" and answer is not None:
            return self._judge.submit(problem.prompt, problem.answer, answer, same_value(answer, problem.answer))
        judgement = judge(problem, response, self.options)
        if isinstance(judgement, Decision):
            return judgement
        return self._pool.submit(judgement.function, judgement.args, judgement.preload, judgement.timeout_s)

    def grade(self, problem: Problem, response: Response) -> Verdict:
        return self.submit(problem, response).result()

    async def grade_async(self, problem: Problem, response: Response) -> Verdict:
        """Grade without holding the event loop."""
        return await asyncio.wrap_future(await asyncio.to_thread(self.submit, problem, response))

    def stats(self, reset: bool = False) -> dict[str, Any]:
        """Return counts since the start or the last reset.

        Responses graded, isolated calls with their latency in seconds (waiting included), timeouts, infrastructure
        errors; how many calls wait now, and how many did at most. `failures` holds for each verifier that failed how
        often it did and its latest reason. With a judge also its requests, retries, cached and failed ones, and the
        length bias of its grades.
        """
        judged = {f"judge_{name}": count for name, count in self._judge.stats(reset).items()} if self._judge else {}
        return {**judged, **self._tally.stats(reset), "queue_depth": self._pool.depth()}

    def close(self) -> None:
        """End the isolated processes; verdicts still pending become infrastructure errors."""
        self._pool.close()
        if self._judge is not None:
            self._judge.close()

    def __enter__(self) -> Grader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _judged(self, response: Response, call: Future[Any]) -> Verdict:
        """Return the verdict of a call that has ended. Raises what it raised, but for what counts as wrong."""
        try:
            result = call.result()
        except CallTimeout as error:
            return self._verdict(response, {"correct": False, "error": f"verification {error}"}, Status.timeout)
        except CallOutOfMemory as error:
            return self._verdict(response, {"correct": False, "error": f"verification {error}"})
        found: dict[str, Any] = result if isinstance(result, dict) else {"correct": result is True}
        if type(result) is float:  # the judge's: what isn't full marks says so by its part
            found = {"correct": result >= 1.0, "parts": {"correct": result}, "error": f"graded {result:g}"}
        self._note_isolation(found.get("isolation"))
        if not found["correct"] and not found.get("error"):
            found = {**found, "error": "not the answer"}
        return self._verdict(response, found, Status.timeout if found.get("timeout") else None)

    def _note_isolation(self, level: str | None) -> None:
        if level is not None and level != self.isolation:
            self.isolation = level
            _log.log(
                logging.INFO if level == "bwrap" else logging.WARNING,
                "judged code runs in a sandbox of level %s%s",
                level,
                "" if level == "bwrap" else "; bwrap (package bubblewrap) would keep it further away",
            )

    def _verdict(self, response: Response, found: dict[str, Any], status: Status | None = None) -> Verdict:
        correct = bool(found["correct"])
        if found.get("masked"):
            return Verdict(None, correct, Status.infra_error, found["parts"], found["error"])
        parts: dict[str, float] = {"correct": float(correct), **found.get("parts", {})}
        parts.update({name: shape(response) for name, shape in self._shapes.items() if self.weights[name]})
        reward = finite(sum(weight * parts[name] for name, weight in self.weights.items() if weight), "reward")
        reward = min(self.clip_max, max(self.clip_min, reward))
        status = status or (Status.passed if correct else Status.failed)
        return Verdict(reward, correct, status, parts, found.get("error", ""))
