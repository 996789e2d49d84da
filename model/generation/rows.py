"""Per-slot bookkeeping of the running sequences, on the device."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from lightning_cispo.model.generation.requests import Request
from lightning_cispo.model.generation.stop_strings import StopTable
from lightning_cispo.model.transfer import on_device

COLUMNS = (
    *("token", "position", "key", "count", "limit", "confident"),
    *("top_k", "min_tokens", "forced_from", "forced_to", "stop_state"),
)
_NEVER = 1 << 62


class Rows:
    """Rows [0, running) are in use. The columns of one type lie in one tensor, so that moving rows is few operations.

    int64 [slots]: `token` (the last sampled), `position` (its own), `key`, `count` (response tokens so far), `limit`,
    `confident` (consecutive tokens above the repetition probability), `top_k`, `min_tokens`, `forced_from`,
    `forced_to` (response indices that an interruption writes), `stop_state` (in `stop_table`; 0: no stop strings).
    float32 [slots]: `temperature`, `top_p`.
    `longs` [columns, slots] holds the former in the order of COLUMNS. `tokens`, `logprobs` [slots, capacity]: the
    responses. `stop_ids` [slots, K], -1 for none.
    """

    def __init__(self, slots: int, eos_id: int, device: torch.device, stop_table: StopTable | None = None):
        self.eos_id, self.stop_table = eos_id, stop_table or StopTable((), 0, device)
        self.longs = torch.zeros(len(COLUMNS), slots, dtype=torch.int64, device=device)
        self._floats = torch.ones(2, slots, device=device)
        for name, column in zip(COLUMNS, self.longs, strict=True):
            setattr(self, name, column)
        self.temperature, self.top_p = self._floats
        self.tokens = torch.zeros(slots, 0, dtype=torch.int32, device=device)
        self.logprobs = torch.zeros(slots, 0, device=device)
        self.stop_ids = torch.full((slots, 1), eos_id, dtype=torch.int64, device=device)
        self.forced = torch.zeros(slots, 1, dtype=torch.int64, device=device)

    token: Tensor
    position: Tensor
    key: Tensor
    count: Tensor
    limit: Tensor
    confident: Tensor
    top_k: Tensor
    min_tokens: Tensor
    forced_from: Tensor
    forced_to: Tensor
    stop_state: Tensor

    def start(self, first_slot: int, requests: list[Request], samples: list[int]) -> None:
        """Occupy consecutive slots with samples whose prompts have been read; `stop_table` holds their stop strings."""
        slots = slice(first_slot, first_slot + len(requests))
        self._reserve(max(request.max_tokens for request in requests) + 1)
        columns = [
            (0, len(r.prompt_T) - 1, r.keys[s], 0, r.max_tokens, 0, r.top_k, r.min_tokens, _NEVER, _NEVER, state)
            for r, s in zip(requests, samples, strict=True)
            for state in (self.stop_table.beginning(r.stop_strings),)
        ]
        self.longs[:, slots] = on_device(columns, self.longs.device).T
        floats = [(r.temperature, r.top_p) for r in requests]
        self._floats[:, slots] = on_device(floats, self._floats.device, np.float32).T
        width = 1 + max(len(request.stop_ids) for request in requests)
        if width > self.stop_ids.shape[1]:
            self.stop_ids = _widened(self.stop_ids, width, -1)
        if self.stop_ids.shape[1] > 1:
            padded = [[*r.stop_ids, *[-1] * (self.stop_ids.shape[1] - 1 - len(r.stop_ids))] for r in requests]
            self.stop_ids[slots, 1:] = on_device(padded, self.stop_ids.device)

    def force(self, slot: int, start: int, tokens: list[int]) -> None:
        """Response tokens from index `start` on, whatever the policy would choose."""
        if len(tokens) > self.forced.shape[1]:
            self.forced = _widened(self.forced, len(tokens), 0)
        self.forced[slot, : len(tokens)] = on_device(tokens, self.forced.device)
        self.forced_from[slot], self.forced_to[slot] = start, start + len(tokens)

    def _reserve(self, length: int) -> None:
        if length > self.tokens.shape[1]:
            self.tokens, self.logprobs = _widened(self.tokens, length, 0), _widened(self.logprobs, length, 0)

    def move(self, sources: Tensor, targets: Tensor) -> None:
        self.longs[:, targets] = self.longs[:, sources]
        self._floats[:, targets] = self._floats[:, sources]
        for table in self._tables():
            table[targets] = table[sources]

    def _tables(self) -> list[Tensor]:
        tables = [self.tokens, self.logprobs]
        return tables + [table for table in (self.stop_ids, self.forced) if table.shape[1] > 1]

    def save(self, slot: int) -> list[Tensor]:
        """A copy of a row on the host, for `restore`."""
        parts = [self.longs[:, slot], self._floats[:, slot]]
        parts += [self.tokens[slot], self.logprobs[slot], self.stop_ids[slot], self.forced[slot]]
        return [part.cpu().clone() for part in parts]

    def restore(self, slot: int, saved: list[Tensor]) -> None:
        """Put a saved row into a slot; tables may have grown since."""
        self.longs[:, slot], self._floats[:, slot] = (part.to(self.token.device) for part in saved[:2])
        for table, part in zip((self.tokens, self.logprobs, self.stop_ids, self.forced), saved[2:], strict=True):
            table[slot] = -1 if table is self.stop_ids else 0
            table[slot, : len(part)] = part.to(table.device)


def _widened(table_SW: Tensor, width: int, fill: int) -> Tensor:
    return torch.cat([table_SW, table_SW.new_full((len(table_SW), width - table_SW.shape[1]), fill)], dim=1)
