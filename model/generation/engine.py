"""Continuous batching: requests join and leave at any step, a prompt is read once for its whole group."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import groupby
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from model.generation.cache import DecodeCache
from model.generation.randomness import sample as draw
from model.generation.randomness import uniform
from model.generation.requests import Completion, EngineStats, Request
from model.generation.rows import Rows
from model.layers import Context
from model.network import MiniMax


@dataclass(frozen=True)
class _ReadPrompt:
    """Sequence `source` of a prefill's context, and the logits after its last token."""

    context: Context
    source: int
    logits_V: Tensor


@dataclass
class _Waiting:
    """A request some of whose samples have no slot yet."""

    request: Request
    next_sample: int = 0
    prompt: _ReadPrompt | None = None


class _Start(NamedTuple):
    """A sample that gets a slot."""

    request: Request
    sample: int
    prompt: _ReadPrompt


class Engine:
    """Decodes up to `slots` sequences at once; the network's weights may be replaced in place between steps."""

    def __init__(
        self,
        network: MiniMax,
        slots: int,
        eos_id: int,
        prefill_tokens: int = 16384,
        repetition_tokens: int = 3000,
        repetition_probability: float = 0.99,
    ):
        self.network, self.slots, self.eos_id = network.eval(), slots, eos_id
        self.prefill_tokens, self.repetition_tokens = prefill_tokens, repetition_tokens
        self.repetition_logprob = float(np.log(repetition_probability))
        self.device = network.lm_head.weight.device
        self.cache = DecodeCache(network.config, slots, network.compute_dtype, self.device)
        self.rows = Rows.empty(slots, self.device)
        self.waiting: deque[_Waiting] = deque()
        self.version = 0
        self.stats = EngineStats()

    @property
    def running(self) -> int:
        return len(self.rows.owner)

    @property
    def has_work(self) -> bool:
        return bool(self.waiting or self.rows.owner)

    def submit(self, request: Request) -> None:
        """Queue a request. Raises ValueError for an empty prompt or no room to answer."""
        if len(request.prompt_T) == 0 or request.max_tokens < 1:
            raise ValueError(f"request {request.id}: needs a prompt and max_tokens >= 1")
        self.waiting.append(_Waiting(request))
        self.stats.saved_prefill_tokens += (len(request.keys) - 1) * len(request.prompt_T)

    def clear(self) -> None:
        """Forget every request."""
        self.waiting.clear()
        self.rows.owner.clear()

    @torch.no_grad()
    def load_weights(self, named: Iterable[tuple[str, Tensor]], version: int) -> None:
        """Copy weights into the network's storage. Raises KeyError for an unknown name, RuntimeError for a shape."""
        parameters = dict(self.network.named_parameters())
        for name, tensor in named:
            parameters[name].copy_(tensor)
        self.version = version

    @torch.inference_mode()
    def step(self) -> list[Completion]:
        """Admit what fits, then one token for every running sequence. Returns the responses that ended."""
        finished = self._admit()
        if self.running:
            running = slice(0, self.running)
            rows = self.rows
            rows.position[running] += 1
            finished += self._emit(running, self._decode(rows.token[running], rows.position[running]))
            self.stats.steps += 1
        return finished

    def _decode(self, tokens_B: Tensor, positions_B: Tensor) -> Tensor:
        network = self.network
        cos, sin = network.rotary(positions_B)
        x_BX = network.model.embed_tokens(tokens_B).to(network.compute_dtype)
        layer: Any
        for index, layer in enumerate(network.model.layers):
            cache = self.cache.layer(index, self.running)
            x_BX = layer.decode(x_BX, *cache) if len(cache) == 1 else layer.decode(x_BX, cos, sin, *cache, positions_B)
        return network.lm_head(network.model.norm(x_BX))

    def _emit(self, slots: slice, logits_BV: Tensor) -> list[Completion]:
        """Sample a token for each of `slots`, record it, and take out the sequences that it ends."""
        rows = self.rows
        key_B, count_B = rows.key[slots], rows.count[slots]
        token_B, logprob_B = draw(logits_BV, rows.temperature[slots], uniform(key_B, count_B))
        index_B = torch.arange(slots.start, slots.stop, device=self.device)
        rows.tokens[index_B, count_B] = token_B.int()
        rows.logprobs[index_B, count_B] = logprob_B
        rows.versions[index_B, count_B] = self.version
        rows.token[slots] = token_B
        rows.count[slots] += 1
        rows.confident[slots] = (rows.confident[slots] + 1) * (logprob_B > self.repetition_logprob)
        self.stats.slot_steps += len(token_B)
        eos_B = token_B == self.eos_id
        full_B = rows.count[slots] >= rows.limit[slots]
        repeated_B = rows.confident[slots] >= self.repetition_tokens
        ended = [i + slots.start for i in (eos_B | full_B | repeated_B).nonzero().squeeze(1).tolist()]
        if not ended:
            return []
        reasons = torch.where(eos_B, 0, torch.where(repeated_B, 1, 2)).tolist()
        completions = [self._completion(i, ("eos", "repetition", "length")[reasons[i - slots.start]]) for i in ended]
        self._remove(ended)
        return completions

    def _completion(self, slot: int, stop: str) -> Completion:
        rows, length = self.rows, int(self.rows.count[slot])
        tokens_T, logprobs_T, versions_T = (
            table[slot, :length].cpu().numpy().copy() for table in (rows.tokens, rows.logprobs, rows.versions)
        )
        request_id, sample = rows.owner[slot]
        return Completion(request_id, sample, tokens_T, logprobs_T, versions_T, stop)

    def _remove(self, ended: list[int]) -> None:
        """Close the gaps with the last running rows."""
        left, gone = self.running - len(ended), set(ended)
        holes = [slot for slot in ended if slot < left]
        movers = [slot for slot in range(left, self.running) if slot not in gone]
        if holes:
            self.cache.move(movers, holes)
            self.rows.move(movers, holes)
        del self.rows.owner[left:]

    def _admit(self) -> list[Completion]:
        """Read waiting prompts and give their samples the free slots, once those are worth a pass."""
        if not self.waiting or self.slots - self.running < max(1, self.slots // 8):
            return []
        batch = self._next_batch()
        self._prefill([waiting for waiting in batch if waiting.prompt is None])
        starts: list[_Start] = []
        for waiting in batch:
            assert waiting.prompt is not None  # read just now, or when its first samples started
            room = self.slots - self.running - len(starts)
            samples = range(waiting.next_sample, min(len(waiting.request.keys), waiting.next_sample + room))
            starts += [_Start(waiting.request, sample, waiting.prompt) for sample in samples]
            waiting.next_sample = samples.stop
        while self.waiting and self.waiting[0].next_sample == len(self.waiting[0].request.keys):
            self.waiting.popleft()
        first = self.running
        self._place(starts)
        return self._emit(slice(first, self.running), torch.stack([start.prompt.logits_V for start in starts]))

    def _next_batch(self) -> list[_Waiting]:
        """The first in the queue that the free slots and one prefill can take."""
        batch: list[_Waiting] = []
        free, tokens = self.slots - self.running, 0
        for waiting in self.waiting:
            tokens += len(waiting.request.prompt_T) if waiting.prompt is None else 0
            if free <= 0 or (batch and tokens > self.prefill_tokens):
                break
            batch.append(waiting)
            free -= len(waiting.request.keys) - waiting.next_sample
        return batch

    def _prefill(self, batch: list[_Waiting]) -> None:
        """Read the prompts, packed, in one pass."""
        if not batch:
            return
        prompts = [torch.as_tensor(waiting.request.prompt_T, dtype=torch.int64) for waiting in batch]
        ends = torch.tensor([len(prompt) for prompt in prompts]).cumsum(0).to(self.device)
        cu_seqlens = torch.cat([ends.new_zeros(1), ends])
        output = self.network(torch.cat(prompts).to(self.device), cu_seqlens, return_context=True)
        logits_SV = self.network.lm_head(output.hidden_TX[ends - 1])
        for source, waiting in enumerate(batch):
            waiting.prompt = _ReadPrompt(output.context, source, logits_SV[source])
        self.stats.prefill_tokens += len(output.hidden_TX)

    def _place(self, starts: list[_Start]) -> None:
        """Occupy the slots after the running ones."""
        first, requests = self.running, [start.request for start in starts]
        self.cache.reserve(max(len(request.prompt_T) + request.max_tokens for request in requests))
        self.rows.reserve(max(request.max_tokens for request in requests))
        slot = first
        for _, members in groupby((start.prompt for start in starts), key=lambda prompt: id(prompt.context)):
            prompts = list(members)
            self.cache.fill(slot, prompts[0].context, [prompt.source for prompt in prompts])
            slot += len(prompts)
        rows, slots = self.rows, slice(first, slot)
        rows.position[slots] = torch.tensor([len(request.prompt_T) - 1 for request in requests])
        rows.key[slots] = torch.tensor([start.request.keys[start.sample] for start in starts])
        rows.limit[slots] = torch.tensor([request.max_tokens for request in requests])
        rows.temperature[slots] = torch.tensor([float(request.temperature) for request in requests])
        rows.count[slots] = 0
        rows.confident[slots] = 0
        rows.owner += [(start.request.id, start.sample) for start in starts]
