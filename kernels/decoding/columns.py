"""The table of running sequences that recording reads and writes."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Columns:
    """Which columns of a table [columns, slots] hold what."""

    token: int
    count: int
    limit: int
    confident: int
    min_tokens: int
    stop_state: int
