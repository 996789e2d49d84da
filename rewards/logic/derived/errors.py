"""What a derivation raises."""

from __future__ import annotations


class Unsettled(Exception):
    """The question has no answer, or several."""
