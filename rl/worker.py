"""A rollout worker: one engine, one grader; prompts in, judged groups out as they finish."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import Future, wait
from dataclasses import asdict, dataclass

import numpy as np
import torch

from configs.schema import ModelConfig, Precision, RunConfig
from model.generation.engine import Engine
from model.generation.randomness import stream_key
from model.generation.requests import Completion, EngineStats, Request
from model.network import MiniMax
from model.tokenizer import decode, load_tokenizer
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
    """Hosted in a Ray actor by `rl.rollouts`; plain Python otherwise."""

    def __init__(self, config: RunConfig, model: ModelConfig, tokenizer_name: str):
        threads = config.rollout.threads or max(1, len(os.sched_getaffinity(0)) // config.rollout.workers)
        torch.set_num_threads(threads)
        self.tokenizer = load_tokenizer(tokenizer_name)
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        dtype = torch.bfloat16 if config.learner.precision is Precision.bfloat16 else torch.float32
        with torch.device(device):
            network = MiniMax(model, dtype)
        self.engine = Engine(
            network,
            config.rollout.slots,
            self.tokenizer.eos_token_id,
            config.rollout.prefill_tokens,
            config.sampling.repetition_tokens,
            config.sampling.repetition_probability,
        )
        self.grader = Grader(**asdict(config.rewards))

    def ready(self) -> int:
        """The process id, once constructed."""
        return os.getpid()

    def load_weights(self, weights: dict[str, np.ndarray], version: int) -> None:
        self.engine.load_weights(((name, torch.from_numpy(array)) for name, array in weights.items()), version)

    def generate(self, prompts: list[Prompt], draw: Draw) -> Iterator[Group]:
        """Groups in the order in which they finish. Verification runs beside generation and never holds it."""
        self.engine.clear()
        self.engine.stats = EngineStats()
        for index, prompt in enumerate(prompts):
            keys = [stream_key(draw.seed, prompt.id, sample) for sample in range(draw.samples)]
            self.engine.submit(Request(index, prompt.tokens_T, keys, draw.max_tokens, draw.temperature))
        groups = {index: _Open(prompt, {}, {}, {}) for index, prompt in enumerate(prompts)}
        while groups:
            if self.engine.has_work:
                for completion in self.engine.step():
                    self._judge(groups[completion.request_id], completion, draw.max_tokens)
            else:
                oldest = next(iter(groups.values()))
                wait(oldest.verdicts.values())
            done = [i for i, group in groups.items() if _finished(group, draw.samples)]
            for index in done:
                yield _close(groups.pop(index))

    def statistics(self) -> dict[str, float]:
        """Engine and grader counters of the last `generate`."""
        stats = self.engine.stats
        return {
            "occupancy": stats.slot_steps / max(1, stats.steps * self.engine.slots),
            "prefill_tokens": stats.prefill_tokens,
            "saved_prefill_tokens": stats.saved_prefill_tokens,
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
            loss_mask_T=np.ones(len(completion.tokens_T), bool),
            sampler_logprobs_T=completion.logprobs_T,
            versions_T=completion.versions_T,
            stop=completion.stop,
            text=group.texts[sample],
            verdict=group.verdicts[sample].result(),
            sample=sample,
        )
        for sample, completion in sorted(group.completions.items())
    ]
    return Group(group.prompt, trajectories)
