"""Tokens of few letters, a search of their text for stop strings, and a matcher held against it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from lightning_cispo.model.generation.requests import Request
from lightning_cispo.model.generation.rows import Rows
from lightning_cispo.model.generation.sampler import RECORDED
from lightning_cispo.model.generation.stop_strings import StopTable
from tests.generation.small import EOS

# Letters, pairs and longer pieces of few letters: strings begin and end anywhere in them, and across them.
PIECES = ("a", "b", "é", "ab", "ba", "aa", "abba", "bab", "aé", "bbbb", "", "€")
SPELLINGS = [b""] * 6 + [piece.encode() for piece in PIECES]
SPELLINGS += [bytes([byte]) for byte in "é€".encode()] + [b"\xa9a", b"b\xe2"]
SPELLINGS += [b"ab"[i % 2 : i % 2 + 1] * (1 + i % 3) for i in range(64 - len(SPELLINGS))]


def first_end(tokens_T: list[int], stops: tuple[str, ...], min_tokens: int = 0) -> int | None:
    """Tokens up to the one that completes a stop string, by looking at all that was written so far, every time."""
    text = b""
    for index, token in enumerate(tokens_T):
        grown = text + SPELLINGS[token]
        new = range(len(text) + 1, len(grown) + 1)
        if index >= min_tokens and any(grown[:end].endswith(stop.encode()) for end in new for stop in stops):
            return index + 1
        text = grown
    return None


def check_matching(match: Callable[..., None], device: str) -> None:
    """Rows with several automata, with none, and with a least length, against a search of the text."""
    rng, target = np.random.default_rng(0), torch.device(device)
    table = StopTable(SPELLINGS, 70, target)
    rows = Rows(48, EOS, target, table)
    kinds: list[tuple[str, ...]] = [(), ("abb",), ("é", "bba"), ("aéa", "€", "bbbbb"), ("a" * 40 + "b",)]
    wanted = [Request(i, np.array([7]), [i], 40, min_tokens=3 * (i % 3), stop_strings=kinds[i % 5]) for i in range(40)]
    table.hold(request.stop_strings for request in wanted)
    rows.start(5, wanted, [0] * 40)
    drawn = rng.integers(6, 70, (12, 40))
    drawn[:, ::7] = 6  # "a" and nothing else
    for step, token_B in enumerate(drawn):
        rows.token[5:45], rows.count[5:45] = torch.from_numpy(token_B).to(target), step + 1
        before = torch.tensor([0, 1, 3, 4], device=target).repeat(10)
        codes = before.clone()
        match(table.matcher, codes, rows.longs, RECORDED, 5)
        for i, request in enumerate(wanted):
            ids = [token if token < 64 else 0 for token in drawn[: step + 1, i].tolist()]  # of no bytes, either
            ends = step + 1 == last_end(ids, request.stop_strings, request.min_tokens)
            assert codes[i] == (2 if ends and before[i] != 1 else before[i]), (step, i)


def last_end(ids: list[int], stops: tuple[str, ...], min_tokens: int) -> int | None:
    """`first_end`'s, of a response that goes on after it: whether its last token completes a string."""
    return first_end(ids, stops, max(min_tokens, len(ids) - 1))
