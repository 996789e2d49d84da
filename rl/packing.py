"""Sequences into packed micro-batches of equal number on every rank; no padding."""

from __future__ import annotations

import heapq
from dataclasses import dataclass

import numpy as np

from lightning_cispo.rl.advantages import Sample


@dataclass(frozen=True)
class MicroBatch:
    """One packed row. All per-token arrays have its length T; scales are 0 where nothing is counted."""

    tokens_T: np.ndarray  # int64
    cu_seqlens: np.ndarray  # int64 [S + 1]
    scales_T: np.ndarray  # float32
    advantages_T: np.ndarray  # float32
    anchor_T: np.ndarray  # float32
    sampler_T: np.ndarray  # float32
    samples: list[int]  # which of the packed list's sequences these are, in order
    routing_TLK: np.ndarray | None = None  # experts to keep to, where they were recorded


def pack(samples: list[Sample], ranks: int, max_tokens: int) -> list[list[MicroBatch]]:
    """Micro-batches [rank][index], as many on each rank because each is a collective step, balanced by tokens.

    A sequence longer than `max_tokens` makes a micro-batch of its own. A rank that is left without a sequence gets a
    micro-batch of one uncounted token.
    """
    lengths = [len(sample.tokens_T) for sample in samples]
    per_rank = max(1, -(-sum(lengths) // (ranks * max_tokens)))
    while True:
        bins = _balance(lengths, ranks * per_rank)
        overfull = any(len(members) > 1 and sum(lengths[i] for i in members) > max_tokens for members in bins)
        if not overfull:
            break
        per_rank += 1
    batches = [_micro_batch(samples, members) for members in bins]
    return [batches[rank::ranks] for rank in range(ranks)]


def _balance(lengths: list[int], bins: int) -> list[list[int]]:
    """Longest first, each into the emptiest bin; fullest bins first in the result."""
    heap: list[tuple[int, int, list[int]]] = [(0, i, []) for i in range(bins)]
    for i in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        used, index, members = heapq.heappop(heap)
        heapq.heappush(heap, (used + lengths[i], index, [*members, i]))
    return [members for _, _, members in sorted(heap, key=lambda entry: (-entry[0], entry[1]))]


def _micro_batch(samples: list[Sample], members: list[int]) -> MicroBatch:
    if not members:
        nothing = np.zeros(1, np.float32)
        return MicroBatch(np.zeros(1, np.int64), np.array([0, 1]), nothing, nothing, nothing, nothing, [])
    chosen = [samples[i] for i in members]
    lengths = [len(sample.tokens_T) for sample in chosen]
    routings = [sample.routing_TLK for sample in chosen if sample.routing_TLK is not None]
    return MicroBatch(
        tokens_T=np.concatenate([sample.tokens_T for sample in chosen]).astype(np.int64),
        cu_seqlens=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        scales_T=np.concatenate([sample.loss_mask_T * np.float32(sample.scale) for sample in chosen]),
        advantages_T=np.repeat(np.array([sample.advantage for sample in chosen], np.float32), lengths),
        anchor_T=np.concatenate([sample.anchor_T for sample in chosen]),
        sampler_T=np.concatenate([sample.sampler_T for sample in chosen]),
        samples=members,
        routing_TLK=np.concatenate(routings) if len(routings) == len(chosen) else None,
    )
