"""Which pages of the key-value cache are whose: a free list and a count of holders."""

from __future__ import annotations

from collections.abc import Iterable


class PagePool:
    """Pages 1 to `total`. Page 0 is nobody's: idle rows of a decoding batch write there."""

    def __init__(self, total: int):
        self.total = total
        self._free = list(range(total, 0, -1))
        self._holders = [0] * (total + 1)

    @property
    def available(self) -> int:
        return len(self._free)

    def take(self, count: int) -> list[int]:
        """`count` pages with one holder each. Raises RuntimeError if there are fewer: the caller asks first."""
        if count > len(self._free):
            raise RuntimeError(f"{count} pages wanted, {len(self._free)} free")
        pages = [self._free.pop() for _ in range(count)]
        for page in pages:
            self._holders[page] = 1
        return pages

    def share(self, pages: Iterable[int]) -> None:
        """One holder more for each."""
        for page in pages:
            self._holders[page] += 1

    def release(self, pages: Iterable[int]) -> None:
        """One holder less for each; those without any are free again."""
        for page in pages:
            self._holders[page] -= 1
            if self._holders[page] == 0:
                self._free.append(page)

    def shared(self, page: int) -> bool:
        return self._holders[page] > 1
