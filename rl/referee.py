"""Judging beside generation: texts are decoded and verdicts asked for in a thread of its own."""

from __future__ import annotations

import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, NamedTuple

from lightning_cispo.model.generation.requests import Completion
from lightning_cispo.model.tokenizer import decode
from lightning_cispo.rewards.grader import Grader
from lightning_cispo.rewards.verdict import Response
from lightning_cispo.rl.open_group import OpenGroup


class _Ended(NamedTuple):
    completion: Completion
    group: OpenGroup
    max_tokens: int
    tell: Callable[[BaseException | None], None]


class Referee:
    """Own the thread between an engine's thread and a grader.

    Decoding a text, what a grader looks at first and its full queue hold up this thread alone.
    """

    def __init__(self, tokenizer: Any, grader: Grader):
        self._tokenizer, self._grader = tokenizer, grader
        self._queue: SimpleQueue[_Ended | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="referee", daemon=True)
        self._thread.start()

    def judge(
        self,
        completion: Completion,
        group: OpenGroup,
        max_tokens: int,
        tell: Callable[[BaseException | None], None],
    ) -> None:
        """Add a completion with its text and verdict to its group; returns at once.

        `tell` is called from another thread: with None once the verdict is there, with what was raised before it.
        """
        self._queue.put(_Ended(completion, group, max_tokens, tell))

    def close(self) -> None:
        """End the thread after what it has begun."""
        self._queue.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (ended := self._queue.get()) is not None:
            try:
                self._submit(ended)
            except BaseException as error:  # else it would be lost here, and `generate` wait for ever
                ended.tell(error)

    def _submit(self, ended: _Ended) -> None:
        completion, group = ended.completion, ended.group
        text = decode(self._tokenizer, completion.tokens_T.tolist())
        response = Response(text, len(completion.tokens_T), completion.stop, ended.max_tokens)
        verdict = self._grader.submit(group.prompt.problem, response)
        group.add(completion, text, verdict)
        verdict.add_done_callback(lambda _: ended.tell(None))
