"""A rollout worker: one engine, one grader; prompts in, judged groups out as they finish."""

from __future__ import annotations

import itertools
import os
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from queue import SimpleQueue

import numpy as np
import torch

from lightning_cispo.configs.schema import ModelConfig, Precision, RunConfig
from lightning_cispo.model.chat import thinking_open
from lightning_cispo.model.generation.engine import Engine
from lightning_cispo.model.generation.randomness import stream_key
from lightning_cispo.model.generation.requests import Completion, EngineStats, Interruption, Request
from lightning_cispo.model.network import MiniMax
from lightning_cispo.model.spelling import spelled_text, spellings
from lightning_cispo.model.tokenizer import encode, eos_ids, load_tokenizer
from lightning_cispo.rewards.grader import Grader
from lightning_cispo.rewards.isolated import cores
from lightning_cispo.rewards.verdict import Problem, Response, Verdict
from lightning_cispo.rl.open_group import OpenGroup
from lightning_cispo.rl.referee import Referee
from lightning_cispo.rl.types import Group, Prompt


@dataclass(frozen=True)
class Draw:
    """How a batch of prompts is sampled; `seed` names the batch's random streams."""

    samples: int
    temperature: float
    max_tokens: int
    seed: int


@dataclass(frozen=True)
class Room:
    """A worker's word that it could begin as many prompts more. Answered by one `add` or `no_more`."""

    prompts: int


# To the thread of `generate` from others: the id of a group with one verdict more, prompts, that none come, or what
# was raised.
_Inbox = SimpleQueue[int | list[Prompt] | BaseException | None]


class RolloutWorker:
    """Hosted in a Ray actor by `rl.rollouts`; plain Python otherwise.

    `generate` runs in one thread; `add`, `no_more` and `load_weights` may be called from others meanwhile.
    """

    def __init__(self, config: RunConfig, model: ModelConfig, tokenizer_name: str):
        self.config = config
        self.threads = config.rollout.threads or self._share_of_cores()
        self.tokenizer = load_tokenizer(tokenizer_name)
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        dtype = torch.bfloat16 if config.learner.precision is Precision.bfloat16 else torch.float32
        with torch.device(device):
            network = MiniMax(model, dtype, config.learner.exact)
        self.engine = Engine(
            network,
            config.rollout.slots,
            self.tokenizer.eos_token_id,
            config.rollout.prefill_tokens,
            config.sampling.repetition_tokens,
            config.sampling.repetition_probability,
            max_length=config.data.max_prompt_tokens + config.sampling.max_tokens,
            kv_tokens=config.rollout.kv_tokens or None,
            spellings=spellings(self.tokenizer) if config.sampling.stop else None,
            record_routing=config.algorithm.routing_replay,
        )
        self.grader = Grader(**asdict(config.rewards) | {"processes": self._verifiers()})
        self._referee = Referee(self.tokenizer, self.grader)
        self._engine_free = threading.Lock()
        self._turn = threading.Lock()  # held by whoever waits for the engine, so that it gets it after the step
        self._inbox = _Inbox()
        self._ids = itertools.count()
        self._start_clock()

    def _share_of_cores(self) -> int:
        return max(1, cores() // self.config.rollout.workers)

    def _verifiers(self) -> int:
        return self.config.rewards.processes or self._share_of_cores()

    def ready(self) -> int:
        """The process id, once constructed."""
        return os.getpid()

    def load_weights(self, version: int, *parts: dict[str, np.ndarray]) -> None:
        """Between two steps of the engine, whatever is under way: responses go on with the new weights, from the states
        of the old ones or, with `rollout.recompute`, from those that the new ones give their beginnings."""
        with self._turn, self._engine_free:
            named = ((name, torch.from_numpy(array)) for part in parts for name, array in part.items())
            self.engine.load_weights(named, version, self.config.rollout.recompute)

    def add(self, prompts: list[Prompt]) -> None:
        """Prompts for the `generate` that has said it has `Room`."""
        self._inbox.put(prompts)

    def no_more(self) -> None:
        """The other answer: it need not ask again."""
        self._inbox.put(None)

    def generate(self, prompts: list[Prompt], draw: Draw, more: bool = False) -> Iterator[Group | Room]:
        """Groups in the order in which they finish. Verification runs beside generation and never holds it.

        With `more`, a `Room` comes between them as soon as the engine could use further prompts, whatever still waits
        for its verdict. Decoding goes on until the answer is there; there is no other `Room` before it.
        """
        torch.set_num_threads(self.threads)  # a setting of the thread, not of the process
        self.engine.clear()
        self._inbox = _Inbox()
        self._start_round()
        groups: dict[int, OpenGroup] = {}
        self._submit(prompts, draw, groups)
        asked = False
        while groups or more:
            if self.engine.has_work:
                for completion in self._step():
                    self._judge(completion, groups[completion.request_id], draw.max_tokens)
            if more and not asked and (room := self._room(draw.samples)):
                asked = True
                yield Room(room)
            for news in self._news():
                if isinstance(news, BaseException):
                    raise news
                if isinstance(news, int):
                    groups[news].judged += 1
                    if groups[news].judged == draw.samples:
                        yield groups.pop(news).close()
                else:
                    more, asked = news is not None, False
                    self._submit(news or [], draw, groups)

    def _room(self, samples: int) -> int:
        """Prompts that fit the free slots and one to be at hand when others free up; 0 while any waits in the queue."""
        free = self.engine.slots - self.engine.running
        return 0 if len(self.engine.queue) else -(-free // samples) + 1

    def _news(self) -> Iterator[int | list[Prompt] | BaseException | None]:
        """All that has come in; waits for something where the engine has nothing to do."""
        if not self.engine.has_work:
            yield self._inbox.get()
        while not self._inbox.empty():
            yield self._inbox.get()

    def _start_clock(self) -> None:
        self._began = self._ended = time.monotonic()  # the last `generate`, and its last step
        self._span_s = 0.0  # from beginning to last step, of those before
        self._busy_s = self._slot_s = 0.0  # seconds of steps, and of steps times slots in use

    def _start_round(self) -> None:
        self._span_s += self._ended - self._began
        self._began = self._ended = time.monotonic()

    def _step(self) -> list[Completion]:
        with self._turn:
            pass  # weights that wait to be loaded go first
        started = time.monotonic()
        with self._engine_free:
            completions = self.engine.step()
        self._ended = time.monotonic()
        self._busy_s += self._ended - started
        used = min(self.engine.slots, self.engine.running + len(completions))  # those that end have left already
        self._slot_s += used * (self._ended - started)
        return completions

    def _submit(self, prompts: list[Prompt], draw: Draw, groups: dict[int, OpenGroup]) -> None:
        sampling = self.config.sampling
        for prompt in prompts:
            index = next(self._ids)
            keys = [stream_key(draw.seed, prompt.id, sample) for sample in range(draw.samples)]
            self.engine.submit(
                Request(
                    index,
                    prompt.tokens_T,
                    keys,
                    draw.max_tokens,
                    draw.temperature,
                    sampling.top_p,
                    sampling.top_k,
                    sampling.min_tokens,
                    eos_ids(self.tokenizer)[1:],
                    stop_strings=tuple(sampling.stop),
                    interruption=self._interruption(),
                )
            )
            groups[index] = OpenGroup(prompt)

    def _interruption(self) -> Interruption | None:
        """The end of thinking that goes on for too long, if the configuration sets one."""
        sampling = self.config.sampling
        if not sampling.thinking_tokens:
            return None
        closing = encode(self.tokenizer, sampling.closing_text)
        spellings(self.tokenizer)  # made now, not at the first look

        def closed(ids: np.ndarray) -> bool:
            # Not decoded: this is the engine's thread.
            return not thinking_open(spelled_text(self.tokenizer, ids.tolist()))

        return Interruption(sampling.thinking_tokens, closing, closed)

    def statistics(self) -> dict[str, float]:
        """Engine and grader counters of every `generate` since the last call: the rounds of a step, say.

        `occupancy` is the share of slots in use, by time from the start to the end of the last step: each step counts
        for its seconds times the slots that it had in use, and whatever the engine waited for counts as slots unused.
        """
        stats, slots = self.engine.stats, self.engine.slots
        found = {
            "occupancy": self._slot_s / max(1e-9, slots * (self._span_s + self._ended - self._began)),
            "prefill_tokens": stats.prefill_tokens,
            "saved_prefill_tokens": stats.saved_prefill_tokens,
            "tokens_per_s": stats.slot_steps / max(1e-9, self._busy_s),
            "queue_s": stats.queue_s / max(1, stats.started),
            "preemptions": stats.preemptions,
            **self.grader.stats(reset=True),
        }
        self.engine.stats = EngineStats()
        self._start_clock()
        return found

    def judge(self, pairs: list[tuple[Problem, Response]]) -> list[Verdict]:
        """Verdicts on responses that were judged before, in vain; in their order."""
        promises = [self.grader.submit(problem, response) for problem, response in pairs]
        return [promise.result() for promise in promises]

    def close(self) -> None:
        self.grader.close()  # first: it lets go of whoever waits for room
        self._referee.close()

    def _judge(self, completion: Completion, group: OpenGroup, max_tokens: int) -> None:
        inbox, index = self._inbox, completion.request_id
        self._referee.judge(completion, group, max_tokens, lambda error: inbox.put(index if error is None else error))
