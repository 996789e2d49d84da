"""Watch whether the judge pays for length: the correlation of grade with length among equally correct answers."""

from __future__ import annotations

import logging
from collections import deque

_log = logging.getLogger(__name__)
_ENOUGH = 50  # answers before a correlation means anything, or a window's worth where that is less
_EVERY = 10  # answers between two looks


class LengthBias:
    """Correlate the last `window` answers (Pearson's), grade and length each taken relative to the mean of those that
    are as correct. Above `threshold` it warns, once until it falls below again."""

    def __init__(self, threshold: float, window: int):
        self.threshold = threshold
        self.alarm = False
        self._seen: deque[tuple[bool | None, float, float]] = deque(maxlen=window)
        self._enough = min(_ENOUGH, window)
        self._since = 0  # answers since the last look

    def record(self, grade: float, length: int, correct: bool | None) -> None:
        self._seen.append((correct, grade, float(length)))
        self._since += 1
        if len(self._seen) < self._enough or self._since < _EVERY:
            return
        self._since = 0
        found = self.correlation()
        if found > self.threshold and not self.alarm:
            _log.warning("the judge's grades grow with length: correlation %.2f, above %.2f", found, self.threshold)
        self.alarm = found > self.threshold

    def correlation(self) -> float:
        """Return -1 to 1; 0.0 where grades or lengths don't vary."""
        grades: list[float] = []
        lengths: list[float] = []
        for label in {correct for correct, _, _ in self._seen}:
            group = [(grade, length) for correct, grade, length in self._seen if correct is label]
            mean_grade, mean_length = (sum(column) / len(group) for column in zip(*group))
            grades += [grade - mean_grade for grade, _ in group]
            lengths += [length - mean_length for _, length in group]
        spread = sum(g * g for g in grades) * sum(x * x for x in lengths)
        return sum(g * x for g, x in zip(grades, lengths)) / spread**0.5 if spread > 0 else 0.0
