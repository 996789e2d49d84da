"""Kernels, and the learner made of them, against their peers on the device found: `python -m tests.benchmarks.kernels`.

flash-linear-attention and Liger are optional; without one its cells stay empty. Each part alone:
`python -m tests.benchmarks.lightning`, `.head`, `.softmax`, `.experts`, `.learner` (which has more columns there).
"""

from __future__ import annotations

from tests.benchmarks import experts, head, learner, lightning, softmax
from tests.benchmarks.device import table

if __name__ == "__main__":
    table(head.rows, softmax.rows, experts.rows, learner.rows, lightning.rows)
