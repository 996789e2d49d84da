"""Difficulty by pass rate: a level goes up when the policy has learned it, and down when it has lost it."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field


@dataclass
class Curriculum:
    """One parameter of a family between `least` and `most`. After `window` responses at a level its pass rate decides:
    from `raise_at` on the level goes up by `step`, below `lower_at` down. A pure function of what it was told, so that
    `level`, `most` and `recent` are all there is to save."""

    least: int = 0
    most: int = 10
    step: int = 1
    raise_at: float = 0.8
    lower_at: float = 0.1
    window: int = 256
    level: int = field(default=-1)
    recent: deque[bool] = field(default_factory=deque)

    def __post_init__(self) -> None:
        if not self.least <= self.most or self.step < 1 or self.window < 1:
            raise ValueError(f"least={self.least}, most={self.most}, step={self.step}, window={self.window}")
        if not 0 <= self.lower_at < self.raise_at <= 1:
            raise ValueError(f"lower_at={self.lower_at} must be below raise_at={self.raise_at}, both from 0 to 1")
        self.level = self.least if self.level < 0 else min(self.most, max(self.least, self.level))

    def record(self, correct: bool, level: int) -> None:
        """A response's verdict. Those to problems of another level (asked before the last change) don't count."""
        if level != self.level:
            return
        self.recent.append(correct)
        if len(self.recent) < self.window:
            return
        rate = sum(self.recent) / len(self.recent)
        if rate >= self.raise_at:
            self.level = min(self.most, self.level + self.step)
        elif rate < self.lower_at:
            self.level = max(self.least, self.level - self.step)
        self.recent.clear()

    def retreat(self) -> bool:
        """Go down a step for good, from a level that has too few problems. False at the lowest one."""
        if self.level == self.least:
            return False
        self.level = self.most = max(self.least, self.level - self.step)
        self.recent.clear()
        return True
