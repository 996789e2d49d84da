"""Continuous batching: requests join and leave at any step, a prompt is read once for its whole group."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable
from itertools import groupby

import numpy as np
import torch
from torch import Tensor

from lightning_cispo.model.exact import TILE
from lightning_cispo.model.generation.cache import DecodeCache, cache_pages
from lightning_cispo.model.generation.decode import Decoder, for_sampling
from lightning_cispo.model.generation.pages import PagePool
from lightning_cispo.model.generation.reading import Queue, Reader, Reading, Waiting
from lightning_cispo.model.generation.report import Report
from lightning_cispo.model.generation.requests import Completion, EngineStats, Request, problem
from lightning_cispo.model.generation.rows import Rows
from lightning_cispo.model.generation.sampler import Sampler
from lightning_cispo.model.generation.sequence import Sequence
from lightning_cispo.model.generation.slots import Slots
from lightning_cispo.model.generation.stop_strings import StopTable
from lightning_cispo.model.intact import unfit
from lightning_cispo.model.network import MiniMax


class Engine:
    """Decodes up to `slots` sequences at once; the network's weights may be replaced in place between steps.

    Args:
        network: the engine's from now on, as `for_sampling` changes it in place.
        prefill_tokens: prompt tokens read between two decoding steps.
        repetition_tokens: a response ends after as many consecutive tokens above `repetition_probability` (M1).
        max_length: tokens of the longest prompt with its response; unset: what the network or the cache allows.
        kv_tokens: tokens whose keys and values fit, all sequences together; unset: `slots` of `max_length`, or a share
            of the free memory if that is less. Where they run short the latest sequences give way and go on later.
        page_tokens: tokens of a page of keys and values, a power of two from 16; unset: 64 on CUDA, else 16.
        admit_slots: slots that are free before prompts are read; unset: an eighth, so that a pass is worth its while; 1
            answers soonest.
        spellings: bytes of each token (`model.spelling.spellings`), by which stop strings are found.
        record_routing: completions carry the experts that each of their tokens went to.
    `reserved` says what memory was set aside; nothing more is taken but for the passes themselves, and a KiB for each
    byte of the stop strings of running requests.
    """

    def __init__(
        self,
        network: MiniMax,
        slots: int,
        eos_id: int,
        prefill_tokens: int = 16384,
        repetition_tokens: int = 3000,
        repetition_probability: float = 0.99,
        max_length: int | None = None,
        kv_tokens: int | None = None,
        page_tokens: int | None = None,
        admit_slots: int | None = None,
        spellings: list[bytes] | None = None,
        record_routing: bool = False,
    ):
        self.network, self.slots = for_sampling(network), slots
        self.admit_slots = admit_slots or max(1, slots // 8)
        device, config, dtype = network.lm_head.weight.device, network.config, network.compute_dtype
        page_tokens = page_tokens or (64 if device.type == "cuda" else 16)
        longest = min(max_length or config.max_position_embeddings, config.max_position_embeddings)
        tail_tokens = TILE if network.exact and device.type == "cuda" else 0
        if tail_tokens and page_tokens != tail_tokens:
            raise ValueError(f"page_tokens={page_tokens}: must be {tail_tokens} in the exact mode")
        extras = record_routing, tail_tokens
        pages = cache_pages(config, slots, longest, kv_tokens, page_tokens, dtype, device, *extras)
        self.max_length = min(longest, pages * page_tokens)
        self.cache = DecodeCache(config, slots, pages, page_tokens, dtype, device, *extras)
        # On CUDA a step's flags are read when the next one is under way, and graphs want tables that never grow.
        self.lag = int(device.type == "cuda")
        self.aside = torch.cuda.Stream() if self.lag else None
        self.settled = torch.cuda.Event() if self.lag else None
        if self.lag:
            self.cache.widen(-(-self.max_length // page_tokens))
        stop_table = StopTable(spellings or [], config.vocab_size, device)
        pool, self.rows = PagePool(pages), Rows(slots, eos_id, device, stop_table)
        self.table = Slots(self.cache, pool, self.rows)
        self.decoder = Decoder(network, self.cache, self.rows)
        self.sampler = Sampler(self.rows, repetition_tokens, repetition_probability)
        self.reader = Reader(network, self.cache, pool, prefill_tokens)
        self.queue = Queue(self.reader)
        self.clock = self.tickets = self.version = 0
        self.stats = EngineStats()
        self._reports: deque[Report] = deque()
        self._finished: list[Completion] = []

    @property
    def running(self) -> int:
        return self.table.running

    @property
    def has_work(self) -> bool:
        return bool(len(self.queue) or self.running or self.table.preempted or self._finished)

    @property
    def reserved(self) -> dict[str, int]:
        """Bytes of states and of keys and values, and how many tokens the latter are for."""
        return self.cache.reserved

    def problem(self, request: Request) -> str | None:
        """Why the request can't be served, in words; None if it can."""
        if request.stop_strings and not self.rows.stop_table.usable:
            return "has stop strings, which an engine without `spellings` can't find"
        return problem(request, self.max_length, self.network.config.vocab_size)

    def submit(self, request: Request) -> None:
        """Queue a request. Raises ValueError for one that can't be served, in a sentence that says why."""
        if wrong := self.problem(request):
            raise ValueError(f"request {request.id}: {wrong}")
        self.queue.waiting.append(Waiting(request, Reading(np.asarray(request.prompt_T))))
        self.stats.saved_prefill_tokens += (len(request.keys) - 1) * len(request.prompt_T)

    @torch.inference_mode()
    def cancel(self, request_id: int) -> None:
        """Forget a request, wherever it stands; nothing more is heard of it."""
        self.queue.remove(request_id)
        self._leave([sequence for sequence in self.table.sequences if sequence.request.id == request_id])
        left = [item for item in self.table.preempted if item.sequence.request.id != request_id]
        self.table.preempted = deque(left)
        self._finished = [completion for completion in self._finished if completion.request_id != request_id]

    def clear(self) -> None:
        """Forget every request."""
        requests = [waiting.request for waiting in self.queue.waiting]
        requests += [sequence.request for sequence in self.table.started]
        for request_id in {request.id for request in requests}:
            self.cancel(request_id)
        self._finished.clear()

    @torch.inference_mode()
    def load_weights(self, named: Iterable[tuple[str, Tensor]], version: int, recompute: bool = False) -> None:
        """Copy weights into the network's storage; responses under way go on with them, from their next token.

        They keep the states and keys that the former weights computed or, with `recompute`, get those of the new ones.
        Prompts that are read and not yet answered are read again. Raises ValueError for an unknown name, another shape,
        a parameter that is missing or given twice, or a value that is not finite: before anything is written.
        """
        self._collect(keep=0)
        parameters, given = dict(self.network.named_parameters()), list(named)
        if wrong := unfit(parameters, given):
            raise ValueError(f"weights of version {version}: {wrong}")
        for name, tensor in given:
            parameters[name].copy_(tensor, non_blocking=True)
        self.version = version
        self.queue.forget_all()
        for sequence in self.table.sequences:
            sequence.versions.append((sequence.count(self.clock), version))
        for item in self.table.preempted:
            item.sequence.versions.append((item.length - len(item.sequence.request.prompt_T) + 1, version))
            item.stale |= recompute
        if recompute:
            self._recompute(self.table.sequences)

    @torch.inference_mode()
    def step(self) -> list[Completion]:
        """Resume and admit what fits, then one token for every running sequence. Returns the responses that ended."""
        if self.table.preempted:
            self._resume()
        self._admit()
        if self.running:
            self._find_pages()
        if self.running:
            self._settle()
            self._decode()
        self._collect(keep=self.lag)
        finished, self._finished = self._finished, []
        return finished

    def _decode(self) -> None:
        self.rows.position[: self.running] += 1
        longest = self.clock - min(sequence.born for sequence in self.table.sequences)
        logits_BV = self.decoder(self.running, longest // self.cache.page_tokens + 1)
        self.clock += 1
        self.stats.steps += 1
        self._sample(0, logits_BV)

    def _sample(self, first_slot: int, logits_BV: Tensor) -> None:
        slots, table = slice(first_slot, self.running), self.table
        self._reports.append(self.sampler(table.sequences[slots], slots, self.clock, logits_BV, table.features))
        self.stats.slot_steps += len(logits_BV)

    def _collect(self, keep: int) -> None:
        """Finish what the reports say has ended, but for the last `keep` reports; rows move once all has been read."""
        gone: list[Sequence] = []
        if not keep:
            self._settle()
        while len(self._reports) > keep:
            report = self._reports.popleft()
            for sequence, stop in report.ended():
                self._finished.append(self._completion(sequence, report.clock, stop))
                sequence.done = True
                gone.append(sequence)
        self._leave(gone)

    def _settle(self) -> None:
        """Rows now lie, or soon will, where the next step finds them: where completions are read from, too."""
        if self.settled:
            self.settled.record()

    def _leave(self, gone: list[Sequence]) -> None:
        for sequence in gone:
            sequence.done = True
        self.table.leave(gone)

    def _completion(self, sequence: Sequence, clock: int, stop: str) -> Completion:
        slot, length = sequence.slot, sequence.count(clock)
        with torch.cuda.stream(self.aside):  # all of it has been written: the step under way is not waited for
            if self.settled:
                self.settled.wait()  # but rows may still be on their way to their slots
            tables = self.rows.tokens, self.rows.logprobs
            tokens_T, logprobs_T = (table[slot, :length].cpu().numpy().copy() for table in tables)
            routing_TLK = self.cache.routing_of(sequence.pages, len(sequence.request.prompt_T) + length - 1)
        # What would have been written after its end, as is seen a step later, was not.
        if stop == "eos" and sequence.written and length > sequence.written[0].start:
            stop = "interrupted"
        versions_T, chosen_T = sequence.versions_T(length), sequence.chosen_T(length)
        columns = tokens_T, logprobs_T, versions_T, chosen_T
        return Completion(sequence.request.id, sequence.sample, *columns, stop, routing_TLK)

    def _find_pages(self) -> None:
        """Make room until every running sequence has a page for its next token."""
        while self.table.missing_pages(self.clock) > 0:
            if self._reports:
                self._collect(keep=0)  # what has ended makes room too
            elif not self.queue.give_way():
                self.table.preempt_latest(self.clock)
                self.stats.preemptions += 1
        self.table.claim_pages(self.clock)

    def _resume(self) -> None:
        if not self.running:
            self.queue.forget_all()  # those that gave way come before prompts that were read ahead
        self._recompute(self.table.resume(self.clock))

    def _recompute(self, sequences: list[Sequence]) -> None:
        """States and keys of sequences under way, from the weights as they are now."""
        for sequence in sequences:
            response_T = self.rows.tokens[sequence.slot, : sequence.count(self.clock) - 1].cpu().numpy()
            reading = Reading(np.concatenate([sequence.request.prompt_T, response_T]), pages=sequence.pages)
            while reading.left:
                self.reader.run([(reading, self.reader.portion(reading, self.reader.budget))], again=True)
            assert reading.outcome is not None  # a sequence has a prompt
            self.cache.fill(sequence.slot, reading.outcome.states, reading.outcome.tails, [reading.source])

    def _admit(self) -> None:
        """Read waiting prompts and give their samples the free slots, once those are worth a pass."""
        table = self.table
        if not len(self.queue) or table.preempted or table.free < self.admit_slots:
            return
        batch = self.queue.next_batch(table.free, table.spare_pages, table.running > 0)
        parts = [(waiting.reading, count) for waiting, count in batch if count]
        self.stats.prefill_tokens += self.reader.run(parts)
        starts: list[tuple[Waiting, int]] = []
        pages = max(table.spare_pages, not table.running)
        for waiting, _ in batch:
            if not waiting.reading.left:
                room = min(table.free, pages) - len(starts)
                samples = range(waiting.next_sample, waiting.next_sample + min(waiting.samples_left, room))
                starts += [(waiting, sample) for sample in samples]
                waiting.next_sample = samples.stop
        if starts:
            self._start(starts)
        self.queue.settle([waiting for waiting, _ in batch])
        if not self.lag:
            self._collect(keep=0)

    def _start(self, starts: list[tuple[Waiting, int]]) -> None:
        """Occupy the slots after the running ones, and sample their first tokens."""
        first, logits, now = self.running, [], time.monotonic()
        slot = first
        for _, members in groupby((waiting.reading for waiting, _ in starts), key=lambda reading: id(reading.outcome)):
            readings = list(members)
            sources, outcome = [reading.source for reading in readings], readings[0].outcome
            assert outcome is not None  # these have been read
            self.cache.fill(slot, outcome.states, outcome.tails, sources)
            logits.append(outcome.logits_SV[sources])
            slot += len(sources)
        for waiting, sample in starts:
            pages, born = list(waiting.reading.pages), self.clock - len(waiting.request.prompt_T)
            self.table.pool.share(pages)
            self.table.join(Sequence(waiting.request, sample, self.tickets, born, pages, [(0, self.version)]))
            self.tickets += 1
            self.stats.queue_s += now - waiting.submitted
        self.stats.started += len(starts)
        if self.table.features["stop_strings"]:
            self.rows.stop_table.hold(sequence.request.stop_strings for sequence in self.table.started)
        self.rows.start(first, [waiting.request for waiting, _ in starts], [sample for _, sample in starts])
        self.cache.set_pages(first, [sequence.pages for sequence in self.table.sequences[first:]])
        self._sample(first, torch.cat(logits))
