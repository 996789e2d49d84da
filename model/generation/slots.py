"""Who runs in which slot with which pages: joining, leaving, giving way when memory is short, and coming back."""

from __future__ import annotations

from collections import Counter, deque

from lightning_cispo.model.generation.cache import DecodeCache
from lightning_cispo.model.generation.pages import PagePool
from lightning_cispo.model.generation.rows import Rows
from lightning_cispo.model.generation.sequence import Preempted, Sequence
from lightning_cispo.model.transfer import on_device


class Slots:
    """Running sequences in slots [0, running), and those that gave way, the first started first."""

    def __init__(self, cache: DecodeCache, pool: PagePool, rows: Rows):
        self.cache, self.pool, self.rows = cache, pool, rows
        self.sequences: list[Sequence] = []  # by slot
        self.preempted: deque[Preempted] = deque()
        self.features: Counter[str] = Counter()  # of the running ones
        self._fresh: list[Sequence] = []  # may share the page that their next token goes to

    @property
    def running(self) -> int:
        return len(self.sequences)

    @property
    def started(self) -> list[Sequence]:
        """The running ones and those that gave way."""
        return self.sequences + [item.sequence for item in self.preempted]

    @property
    def free(self) -> int:
        return self.cache.slots - self.running

    @property
    def spare_pages(self) -> int:
        """Free pages, less one for each running sequence, which will want it soon."""
        return self.pool.available - self.running

    def join(self, sequence: Sequence) -> None:
        sequence.slot = self.running
        self.sequences.append(sequence)
        self.features.update(sequence.features)
        self._fresh.append(sequence)

    def leave(self, gone: list[Sequence]) -> None:
        """Give back what they hold, and close the gaps with the last running rows."""
        if not gone:
            return
        for sequence in gone:
            self.pool.release(sequence.pages)
            self.features.subtract(sequence.features)
        left, slots = self.running - len(gone), {sequence.slot for sequence in gone}
        holes = sorted(slot for slot in slots if slot < left)
        movers = [slot for slot in range(left, self.running) if slot not in slots]
        if holes:
            places = on_device([movers, holes], self.rows.token.device)
            self.cache.move(*places)
            self.rows.move(*places)
        for source, target in zip(movers, holes, strict=True):
            self.sequences[target] = self.sequences[source]
            self.sequences[target].slot = target
        self.cache.idle(slice(left, self.running), self.rows)
        del self.sequences[left:]
        if self._fresh:
            self._fresh = [sequence for sequence in self._fresh if sequence not in gone]

    def missing_pages(self, clock: int) -> int:
        """Pages that the running sequences want for their next tokens beyond those that are free."""
        return sum(map(len, self._wanting(clock))) - self.pool.available

    def claim_pages(self, clock: int) -> None:
        """A page of its own for every running sequence's next token; call it when none is missing."""
        opening, copying = self._wanting(clock)
        self._fresh = []
        copies: list[tuple[int, int]] = []
        changed = list(opening)
        for sequence in copying:
            shared = sequence.pages[-1]
            if self.pool.shared(shared):  # still: the last holder keeps it
                self.pool.release([shared])
                sequence.pages[-1:] = self.pool.take(1)
                copies.append((shared, sequence.pages[-1]))
                changed.append(sequence)
        for sequence in opening:
            sequence.pages += self.pool.take(1)
        if copies:
            self.cache.copy_pages([source for source, _ in copies], [target for _, target in copies])
        if changed:
            last = [(sequence.slot, len(sequence.pages) - 1, sequence.pages[-1]) for sequence in changed]
            self.cache.set_page(*map(list, zip(*last, strict=True)))

    def _wanting(self, clock: int) -> tuple[list[Sequence], list[Sequence]]:
        """Those at the beginning of a page, and those within one that others hold too."""
        size, shared = self.cache.page_tokens, self.pool.shared
        opening = [s for s in self.sequences if (clock - s.born) % size == 0]
        copying = [s for s in self._fresh if (clock - s.born) % size and shared(s.pages[-1])]
        return opening, copying

    def preempt_latest(self, clock: int) -> None:
        """The sequence that started last goes to the host's memory, as it is."""
        sequence = max(self.sequences, key=lambda running: running.ticket)
        saved, row = self.cache.save(sequence.slot, sequence.pages), self.rows.save(sequence.slot)
        self.leave([sequence])
        self.preempted.appendleft(Preempted(sequence, sequence.length(clock), saved, row))

    def resume(self, clock: int) -> list[Sequence]:
        """Bring back those that fit, in the order they started in; returns those whose states are out of date."""
        stale = []
        while self.preempted and self.free:
            item = self.preempted[0]
            sequence, pages = item.sequence, len(item.sequence.pages)
            if self.running and self.spare_pages < pages + 1:
                break
            self.preempted.popleft()
            sequence.pages, sequence.born = self.pool.take(pages), clock - item.length
            self.join(sequence)
            self.cache.restore(sequence.slot, sequence.pages, item.saved)
            self.rows.restore(sequence.slot, item.row)
            if item.stale:
                stale.append(sequence)
        return stale
