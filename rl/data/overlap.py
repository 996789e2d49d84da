"""Find the questions that two data sets share, whatever their case, white space and Unicode's variants."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from hashlib import blake2b

_WORD = re.compile(r"\w+")


def normalised(question: str) -> str:
    """The text by which questions are compared."""
    return " ".join(unicodedata.normalize("NFKC", question).casefold().split())


def key_of(question: str) -> int:
    """A 64-bit hash of the normalised text."""
    return _hash(normalised(question))


class Overlap:
    """Questions of an evaluation, to be kept out of training.

    A question overlaps if it is one of them or, for `words` above 0, if it shares a run of so many words with one.
    """

    def __init__(self, words: int = 0):
        self.words = words
        self._keys: set[int] = set()
        self._runs: set[int] = set()

    def add(self, question: str) -> None:
        """Keep a question out of training."""
        self._keys.add(key_of(question))
        self._runs.update(self._runs_of(question))

    def __contains__(self, question: str) -> bool:
        return key_of(question) in self._keys or any(run in self._runs for run in self._runs_of(question))

    def _runs_of(self, question: str) -> Iterator[int]:
        if self.words:
            found = _WORD.findall(normalised(question))
            for start in range(len(found) - self.words + 1):
                yield _hash(" ".join(found[start : start + self.words]))


def _hash(text: str) -> int:
    return int.from_bytes(blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")
