"""Does the judge pay for length? The correlation of grade with length among answers that are equally correct."""

from __future__ import annotations

import logging
from collections import deque

_log = logging.getLogger(__name__)
_ENOUGH = 50  # answers before a correlation means anything


class LengthBias:
    """Pearson's correlation over the last `window` answers, grade and length each taken relative to the mean of those
    that are as correct. Above `threshold` it warns, once until it falls below again."""

    def __init__(self, threshold: float, window: int):
        self.threshold = threshold
        self.alarm = False
        self._seen: deque[tuple[bool | None, float, float]] = deque(maxlen=window)

    def record(self, grade: float, length: int, correct: bool | None) -> None:
        self._seen.append((correct, grade, float(length)))
        if len(self._seen) < _ENOUGH or len(self._seen) % 10:
            return
        found = self.correlation()
        if found > self.threshold and not self.alarm:
            _log.warning("the judge's grades grow with length: correlation %.2f, above %.2f", found, self.threshold)
        self.alarm = found > self.threshold

    def correlation(self) -> float:
        """From -1 to 1; 0.0 where grades or lengths don't vary."""
        grades: list[float] = []
        lengths: list[float] = []
        for label in {correct for correct, _, _ in self._seen}:
            group = [(grade, length) for correct, grade, length in self._seen if correct is label]
            mean_grade, mean_length = (sum(column) / len(group) for column in zip(*group))
            grades += [grade - mean_grade for grade, _ in group]
            lengths += [length - mean_length for _, length in group]
        spread = sum(g * g for g in grades) * sum(x * x for x in lengths)
        return sum(g * x for g, x in zip(grades, lengths)) / spread**0.5 if spread > 0 else 0.0
