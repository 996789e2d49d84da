"""Stop strings as automata on the device, beside the bytes that tokens stand for."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence

import numpy as np
import torch

from lightning_cispo.kernels.decoding.stops import Matcher
from lightning_cispo.model.transfer import on_device


def automaton(strings: Sequence[str]) -> np.ndarray:
    """Aho and Corasick's (1975) over UTF-8: int32 [states, 256], where each byte leads to from each state.

    State 0 is the beginning. An entry below 0 completes a string; ~entry is the state that it leads to.
    """
    children: list[dict[int, int]] = [{}]
    complete = {0: False}
    for string in strings:
        state = 0
        for byte in string.encode("utf-8", "surrogatepass"):
            if byte not in children[state]:
                children[state][byte] = len(children)
                complete[len(children)] = False
                children.append({})
            state = children[state][byte]
        complete[state] = True
    next_SB = np.zeros((len(children), 256), np.int32)
    left = deque([(0, 0)])  # a state and the one of its longest proper ending; shorter ones first
    while left:
        state, ending = left.popleft()
        next_SB[state] = next_SB[ending] if state else 0
        complete[state] |= complete[ending]
        left += [(child, int(next_SB[state, byte])) for byte, child in children[state].items()]
        for byte, child in children[state].items():
            next_SB[state, byte] = child
    ends = np.array([complete[state] for state in range(len(children))])
    return np.where(ends[next_SB], ~next_SB, next_SB)


class StopTable:
    """The automata of the stop strings in use, one below the other in a table that grows.

    Args:
        spellings: each token's bytes (`model.spelling`); none: no request may have stop strings.
        vocabulary: the network's, which may have tokens that are spelled of nothing.
    """

    def __init__(self, spellings: Sequence[bytes], vocabulary: int, device: torch.device):
        lengths = [len(spelled) for spelled in spellings] + [0] * (vocabulary - len(spellings))
        self.usable = bool(spellings)
        self.matcher = Matcher(
            on_device(np.frombuffer(bytearray().join(spellings), np.uint8), device, np.uint8),
            on_device(np.cumsum([0, *lengths]), device, np.int32),
            torch.zeros(1, 256, dtype=torch.int32, device=device),
        )
        self._places: dict[tuple[str, ...], range] = {}

    def hold(self, wanted: Iterable[tuple[str, ...]]) -> None:
        """Have these in the table; all others may be forgotten."""
        kept = dict.fromkeys(strings for strings in wanted if strings)
        self._places = {strings: place for strings, place in self._places.items() if strings in kept}
        for strings in kept:
            if strings not in self._places:
                made = automaton(strings)
                start = self._room(len(made))
                self._places[strings] = place = range(start, start + len(made))
                moved = np.where(made < 0, made - start, made + start)
                next_SB = self.matcher.next_SB
                next_SB[place.start : place.stop] = on_device(moved, next_SB.device, np.int32)

    def beginning(self, strings: tuple[str, ...]) -> int:
        """The state of a response that has no token yet. `strings` are held, or none."""
        return self._places[strings].start if strings else 0

    def _room(self, states: int) -> int:
        """The first row of as many that no automaton in use has."""
        start = 1
        for place in sorted(self._places.values(), key=lambda place: place.start):
            if place.start - start >= states:
                return start
            start = place.stop
        held = self.matcher.next_SB
        if start + states > len(held):
            grown = held.new_zeros(max(start + states, 2 * len(held)), 256)
            grown[: len(held)] = held
            self.matcher = Matcher(self.matcher.bytes_N, self.matcher.starts_V, grown)
        return start
