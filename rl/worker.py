"""A rollout worker: one engine, one grader; prompts in, judged groups out as they finish."""

from __future__ import annotations

import itertools
import os
import threading
import time
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import asdict, dataclass
from queue import SimpleQueue

import numpy as np
import torch

from configs.schema import ModelConfig, Precision, RunConfig
from model.generation.engine import Engine
from model.generation.randomness import stream_key
from model.generation.requests import Completion, EngineStats, Interruption, Request
from model.network import MiniMax
from model.tokenizer import decode, encode, load_tokenizer
from rewards.grader import Grader
from rewards.verdict import Response, Verdict
from rl.types import Group, Prompt, Trajectory


@dataclass(frozen=True)
class Draw:
    """How a batch of prompts is sampled; `seed` names the batch's random streams."""

    samples: int
    temperature: float
    max_tokens: int
    seed: int


@dataclass
class _Open:
    """A group under way."""

    prompt: Prompt
    completions: dict[int, Completion]
    texts: dict[int, str]
    verdicts: dict[int, Future[Verdict]]


class RolloutWorker:
    """Hosted in a Ray actor by `rl.rollouts`; plain Python otherwise.

    `generate` runs in one thread; `add`, `no_more` and `load_weights` may be called from others meanwhile.
    """

    def __init__(self, config: RunConfig, model: ModelConfig, tokenizer_name: str):
        self.config = config
        self.threads = config.rollout.threads or max(1, len(os.sched_getaffinity(0)) // config.rollout.workers)
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
            record_routing=config.algorithm.routing_replay,
        )
        self.grader = Grader(**asdict(config.rewards))
        self._engine_free = threading.Lock()
        self._turn = threading.Lock()  # held by whoever waits for the engine, so that it gets it after the step
        self._inboxes: dict[int, SimpleQueue[list[Prompt] | None]] = {}
        self._ids = itertools.count()
        self._busy_s = 0.0
        self._interruption()  # what can't work is refused now

    def ready(self) -> int:
        """The process id, once constructed."""
        return os.getpid()

    def load_weights(self, version: int, *parts: dict[str, np.ndarray]) -> None:
        """Between two steps of the engine, whatever is under way: responses go on with the new weights."""
        with self._turn, self._engine_free:
            named = ((name, torch.from_numpy(array)) for part in parts for name, array in part.items())
            self.engine.load_weights(named, version)

    def add(self, batch: int, prompts: list[Prompt]) -> None:
        """More prompts for the `generate` of that batch, which has started or will."""
        self._inbox(batch).put(prompts)

    def no_more(self, batch: int) -> None:
        self._inbox(batch).put(None)

    def _inbox(self, batch: int) -> SimpleQueue[list[Prompt] | None]:
        return self._inboxes.setdefault(batch, SimpleQueue())

    def generate(self, prompts: list[Prompt], draw: Draw, batch: int = 0, more: bool = False) -> Iterator[Group]:
        """Groups in the order in which they finish. Verification runs beside generation and never holds it.

        With `more`, prompts go on coming by `add` until `no_more`.
        """
        torch.set_num_threads(self.threads)  # a setting of the thread, not of the process
        self.engine.clear()
        self.engine.stats, self._busy_s = EngineStats(), 0.0
        groups: dict[int, _Open] = {}
        self._submit(prompts, draw, groups)
        while groups or more:
            while more and (not groups or not self._inbox(batch).empty()):
                added = self._inbox(batch).get()
                more = added is not None
                self._submit(added or [], draw, groups)
            if self.engine.has_work:
                for completion in self._step():
                    self._judge(groups[completion.request_id], completion, draw.max_tokens)
            elif groups:
                verdicts = [verdict for group in groups.values() for verdict in group.verdicts.values()]
                # Prompts may come too: then a look at the inbox now and again.
                wait([v for v in verdicts if not v.done()], 0.01 if more else None, FIRST_COMPLETED)
            done = [i for i, group in groups.items() if _finished(group, draw.samples)]
            for index in done:
                yield _close(groups.pop(index))
        self._inboxes.pop(batch, None)

    def _step(self) -> list[Completion]:
        with self._turn:
            pass  # weights that wait to be loaded go first
        started = time.monotonic()
        with self._engine_free:
            completions = self.engine.step()
        self._busy_s += time.monotonic() - started
        return completions

    def _submit(self, prompts: list[Prompt], draw: Draw, groups: dict[int, _Open]) -> None:
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
                    interruption=self._interruption(),
                )
            )
            groups[index] = _Open(prompt, {}, {}, {})

    def _interruption(self) -> Interruption | None:
        """The end of thinking that goes on for too long, if the configuration sets one."""
        sampling = self.config.sampling
        if not sampling.thinking_tokens:
            return None
        closing = encode(self.tokenizer, sampling.closing_text)
        if sampling.thinking_tokens + len(closing) >= sampling.max_tokens:
            raise ValueError(
                f"sampling.thinking_tokens={sampling.thinking_tokens} and the {len(closing)} of sampling.closing_text "
                f"leave nothing of sampling.max_tokens={sampling.max_tokens} to answer in"
            )
        return Interruption(
            sampling.thinking_tokens, closing, lambda ids: "</think>" in decode(self.tokenizer, ids.tolist())
        )

    def statistics(self) -> dict[str, float]:
        """Engine and grader counters of the last `generate`."""
        stats = self.engine.stats
        return {
            "occupancy": stats.slot_steps / max(1, stats.steps * self.engine.slots),
            "prefill_tokens": stats.prefill_tokens,
            "saved_prefill_tokens": stats.saved_prefill_tokens,
            "tokens_per_s": stats.slot_steps / max(1e-9, self._busy_s),
            "queue_s": stats.queue_s / max(1, stats.started),
            "preemptions": stats.preemptions,
            **self.grader.stats(reset=True),
        }

    def close(self) -> None:
        self.grader.close()

    def _judge(self, group: _Open, completion: Completion, max_tokens: int) -> None:
        text = decode(self.tokenizer, completion.tokens_T.tolist())
        response = Response(text, len(completion.tokens_T), completion.stop, max_tokens)
        group.completions[completion.sample], group.texts[completion.sample] = completion, text
        group.verdicts[completion.sample] = self.grader.submit(group.prompt.problem, response)


def _finished(group: _Open, samples: int) -> bool:
    return len(group.completions) == samples and all(verdict.done() for verdict in group.verdicts.values())


def _close(group: _Open) -> Group:
    trajectories = [
        Trajectory(
            tokens_T=completion.tokens_T,
            loss_mask_T=completion.chosen_T,
            sampler_logprobs_T=completion.logprobs_T,
            versions_T=completion.versions_T,
            stop=completion.stop,
            text=group.texts[sample],
            verdict=group.verdicts[sample].result(),
            sample=sample,
            routing_TLK=completion.routing_TLK,
        )
        for sample, completion in sorted(group.completions.items())
    ]
    return Group(group.prompt, trajectories)
