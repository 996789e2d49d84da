"""Reading prompts: in passes of bounded length over the head of a queue, each prompt once for all its samples."""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from lightning_cispo.model.generation.cache import DecodeCache
from lightning_cispo.model.generation.pages import PagePool
from lightning_cispo.model.generation.requests import Request
from lightning_cispo.model.layers import Context
from lightning_cispo.model.network import MiniMax
from lightning_cispo.model.routing import Routing
from lightning_cispo.model.transfer import on_device

# A prompt is cut between passes at multiples of this: the chunk of lightning attention, so that sums keep their order.
CHUNK = 64


class Pass(NamedTuple):
    """What a pass left of its sequences: lightning states by layer [S, H, D, D], logits after the last token [S, V]."""

    states: dict[int, Tensor]
    tails: dict[int, Tensor]  # in the exact mode on GPUs, keys and values since
    logits_SV: Tensor


@dataclass(eq=False)
class Reading:
    """A sequence on its way into the cache."""

    tokens_T: np.ndarray
    read: int = 0  # tokens done
    pages: list[int] = field(default_factory=list)
    outcome: Pass | None = None  # of the last pass, and which of its sequences this is
    source: int = 0

    @property
    def left(self) -> int:
        return len(self.tokens_T) - self.read

    def keep_only_own(self) -> None:
        """Let go of the other sequences' part of the last pass."""
        if self.outcome and len(self.outcome.logits_SV) > 1:
            own = slice(self.source, self.source + 1)
            states, tails = (
                {layer: rows[own].clone() for layer, rows in found.items()}
                for found in (self.outcome.states, self.outcome.tails)
            )
            self.outcome, self.source = Pass(states, tails, self.outcome.logits_SV[own].clone()), 0


@dataclass(eq=False)
class Waiting:
    """A request some of whose samples have no slot yet."""

    request: Request
    reading: Reading
    next_sample: int = 0
    submitted: float = field(default_factory=time.monotonic)

    @property
    def samples_left(self) -> int:
        return len(self.request.keys) - self.next_sample


class Reader:
    """Runs readings through the network, their keys and values into pages."""

    def __init__(self, network: MiniMax, cache: DecodeCache, pool: PagePool, prefill_tokens: int):
        self.network, self.cache, self.pool = network, cache, pool
        self.budget = max(CHUNK, prefill_tokens)  # tokens of one pass
        self.device = cache.table_SM.device

    def wanted_pages(self, reading: Reading, count: int) -> int:
        """Pages to be taken before `count` more tokens can be read."""
        return -(-(reading.read + count) // self.cache.page_tokens) - len(reading.pages)

    def portion(self, reading: Reading, budget: int) -> int:
        """How much of it a pass with room for `budget` tokens reads: all, or whole chunks."""
        return reading.left if reading.left <= budget else budget // CHUNK * CHUNK

    def run(self, parts: list[tuple[Reading, int]], again: bool = False) -> int:
        """One pass over the next tokens of some readings; their pages are taken here. Returns the tokens read.

        `again`: their expert choices stay recorded as they were when tokens were sampled after them.
        """
        if not parts:
            return 0
        for reading, count in parts:
            reading.pages += self.pool.take(max(0, self.wanted_pages(reading, count)))
        tokens_T = np.concatenate([r.tokens_T[r.read : r.read + count] for r, count in parts]).astype(np.int64)
        borders = np.cumsum([0, *(count for _, count in parts)])
        past = self._past([reading for reading, _ in parts])
        routing = None if self.cache.routing is None or again else Routing()
        output = self.network(self._tensor(tokens_T), self._tensor(borders), past, return_context=True, routing=routing)
        self._write(output.context, parts, routing)
        logits_SV = self.network.lm_head(output.hidden_TX[self._tensor(borders[1:] - 1)])
        outcome = Pass(output.context.states, output.context.tails, logits_SV)
        for source, (reading, count) in enumerate(parts):
            reading.read, reading.outcome, reading.source = reading.read + count, outcome, source
        return len(tokens_T)

    def forget(self, reading: Reading) -> None:
        """Give its pages back; it is read again from its beginning."""
        self.pool.release(reading.pages)
        reading.read, reading.pages, reading.outcome = 0, [], None

    def _past(self, readings: list[Reading]) -> Context | None:
        """The left context of readings some of which have begun."""
        if not any(reading.read for reading in readings):
            return None
        begun = next(reading.outcome for reading in readings if reading.outcome)
        states = {
            layer: torch.stack([r.outcome.states[layer][r.source] if r.outcome else zero for r in readings])
            for layer, zero in ((layer, torch.zeros_like(state[0])) for layer, state in begun.states.items())
        }
        keys, values = self.cache.read(*self._places([(r, 0, r.read) for r in readings]))
        return Context(self._tensor([reading.read for reading in readings]), states, keys, values)

    def _write(self, context: Context, parts: list[tuple[Reading, int]], routing: Routing | None) -> None:
        """The new tokens' keys, values and experts into their pages: the context holds keys after the left context."""
        ends = np.cumsum([reading.read + count for reading, count in parts])
        new_T = np.concatenate([np.arange(end - count, end) for end, (_, count) in zip(ends, parts, strict=True)])
        page_T, offset_T = self._places([(r, r.read, r.read + count) for r, count in parts])
        keys, values = context.keys, context.values
        if any(reading.read for reading, _ in parts):
            new = self._tensor(new_T)
            keys, values = ({layer: x[new] for layer, x in packed.items()} for packed in (keys, values))
        self.cache.write(keys, values, page_T, offset_T)
        if routing is not None and self.cache.routing is not None:
            self.cache.routing[page_T, offset_T] = routing.made_TLK(self.cache.routing.dtype)

    def _places(self, spans: list[tuple[Reading, int, int]]) -> tuple[Tensor, Tensor]:
        """Page and offset of tokens [start, stop) of each reading."""
        size = self.cache.page_tokens
        position_T = np.concatenate([np.arange(start, stop) for _, start, stop in spans])
        page_T = [np.asarray(r.pages, np.int64)[np.arange(start, stop) // size] for r, start, stop in spans]
        return self._tensor(np.concatenate(page_T)), self._tensor(position_T % size)

    def _tensor(self, values: np.ndarray | list[int]) -> Tensor:
        return on_device(values, self.device)


class Queue:
    """Requests in the order in which they came. Only its head may be read in part or placed in part."""

    def __init__(self, reader: Reader):
        self.reader = reader
        self.waiting: deque[Waiting] = deque()

    def __len__(self) -> int:
        return len(self.waiting)

    def next_batch(self, slots: int, pages: int, anything_runs: bool) -> list[tuple[Waiting, int]]:
        """Requests for the next pass, with how many of their tokens it reads.

        `slots` and `pages` are free. Where nothing runs the first is taken whatever it needs: it fits alone.
        """
        batch: list[tuple[Waiting, int]] = []
        budget = self.reader.budget
        for waiting in self.waiting:
            reading = waiting.reading
            count = self.reader.portion(reading, budget)
            if slots <= 0 or (reading.left and not count):
                break
            needed = self.reader.wanted_pages(reading, count) + min(waiting.samples_left, slots)
            if needed > pages and (batch or anything_runs):
                break
            batch.append((waiting, count))
            if count < reading.left:
                break
            slots, pages, budget = slots - waiting.samples_left, pages - needed, budget - count
        return batch

    def settle(self, batch: list[Waiting]) -> None:
        """After a pass: requests whose samples all run are gone, the others keep no more than they need."""
        for waiting in batch:
            if waiting.samples_left:
                waiting.reading.keep_only_own()
            else:
                self.reader.forget(waiting.reading)
                self.waiting.remove(waiting)

    def give_way(self) -> bool:
        """Free the pages of the last prompt that holds any. False if none does."""
        for waiting in reversed(self.waiting):
            if waiting.reading.pages:
                self.reader.forget(waiting.reading)
                return True
        return False

    def forget_all(self) -> None:
        """Every prompt has to be read again, with new weights."""
        while self.give_way():
            pass

    def remove(self, request_id: int) -> None:
        for waiting in [waiting for waiting in self.waiting if waiting.request.id == request_id]:
            self.reader.forget(waiting.reading)
            self.waiting.remove(waiting)
