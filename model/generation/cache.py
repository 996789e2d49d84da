"""The memory of sequences being decoded: lightning states in slots, keys and values in pages."""

from __future__ import annotations

import os
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from lightning_cispo.configs.schema import SOFTMAX, ModelConfig
from lightning_cispo.model.attention import Paging
from lightning_cispo.model.generation.rows import Rows
from lightning_cispo.model.routing import routing_dtype
from lightning_cispo.model.sizes import kv_bytes, routing_bytes, state_bytes, tail_bytes
from lightning_cispo.model.transfer import on_device

# Shares of what is free that a cache may take where nobody says how many tokens it is to hold.
_GPU_SHARE, _CPU_SHARE = 0.8, 0.25
_MOST_PAGES = 1 << 20


class Saved(NamedTuple):
    """What a sequence needs to go on, copied to the host: its row of each table of states, its pages of each pool."""

    states: list[Tensor]
    pages: list[Tensor]


class DecodeCache:
    """Up to `slots` sequences. Rows [0, running) are in use: decoding then touches one contiguous block of states.

    A lightning layer keeps [slots, H, D, D] float32, whatever the length; a softmax layer keeps keys and values
    [pages + 1, Kv, P, D], the pages of the sequence in slot s being `table_SM[s]`. Page 0 takes what idle rows write.
    With `record_routing` the tokens' expert choices lie in the same pages, [pages + 1, P, layers, K]. With
    `tail_tokens` states are those before the current tile of so many tokens, and what came since is in the tails,
    [slots, tile, H, keys and values, D].
    """

    def __init__(
        self,
        config: ModelConfig,
        slots: int,
        pages: int,
        page_tokens: int,
        dtype: torch.dtype,
        device: torch.device,
        record_routing: bool = False,
        tail_tokens: int = 0,
    ):
        self.slots, self.pages, self.page_tokens = slots, pages, page_tokens
        heads, dim, kv_heads = config.num_attention_heads, config.head_dim, config.num_key_value_heads
        self.states: dict[int, Tensor] = {}
        self.tails: dict[int, Tensor] = {}
        self.keys: dict[int, Tensor] = {}
        self.values: dict[int, Tensor] = {}
        for layer, kind in enumerate(config.layer_types):
            if kind == SOFTMAX:
                shape = (pages + 1, kv_heads, page_tokens, dim)
                self.keys[layer], self.values[layer] = (_zeros(shape, dtype, device) for _ in range(2))
            else:
                self.states[layer] = _zeros((slots, heads, dim, dim), torch.float32, device)
                if tail_tokens:
                    self.tails[layer] = _zeros((slots, heads, 2, tail_tokens, dim), dtype, device)
        self.routing: Tensor | None = None
        if record_routing:
            choices = (pages + 1, page_tokens, config.num_hidden_layers, config.num_experts_per_tok)
            self.routing = _zeros(choices, routing_dtype(config.num_local_experts), device)
        self.table_SM = torch.zeros(slots, 1, dtype=torch.int64, device=device)

    @property
    def _tables(self) -> list[Tensor]:
        """Everything that has a row for a slot, but for the pages' table."""
        return [*self.states.values(), *self.tails.values()]

    @property
    def _pools(self) -> list[Tensor]:
        """Everything that lies in pages."""
        routing = [] if self.routing is None else [self.routing]
        return [*self.keys.values(), *self.values.values(), *routing]

    @property
    def reserved(self) -> dict[str, int]:
        """Bytes set aside, by use. On CPUs the system hands them out as they are first written."""
        return {
            "state_bytes": sum(tensor.nbytes for tensor in self._tables),
            "kv_bytes": sum(tensor.nbytes for tensor in (*self.keys.values(), *self.values.values())),
            "routing_bytes": 0 if self.routing is None else self.routing.nbytes,
            "kv_tokens": self.pages * self.page_tokens,
        }

    def widen(self, pages: int) -> None:
        """Room in the table for sequences of `pages` pages."""
        if pages > self.table_SM.shape[1]:
            wider = self.table_SM.new_zeros(self.slots, max(pages, 2 * self.table_SM.shape[1]))
            wider[:, : self.table_SM.shape[1]] = self.table_SM
            self.table_SM = wider

    def set_pages(self, first_slot: int, pages: list[list[int]]) -> None:
        """The whole tables of consecutive slots."""
        self.widen(max(map(len, pages)))
        padded = np.zeros((len(pages), self.table_SM.shape[1]), np.int64)
        for row, own in zip(padded, pages, strict=True):
            row[: len(own)] = own
        self.table_SM[first_slot : first_slot + len(pages)] = on_device(padded, self.table_SM.device)

    def set_page(self, slots: list[int], indices: list[int], pages: list[int]) -> None:
        """One entry of each of some slots' tables."""
        self.widen(max(indices) + 1)
        index = on_device([slots, indices, pages], self.table_SM.device)
        self.table_SM[index[0], index[1]] = index[2]

    def write(self, keys: dict[int, Tensor], values: dict[int, Tensor], page_T: Tensor, offset_T: Tensor) -> None:
        """Packed keys and values [T, Kv, D] by layer into their places."""
        for pool, packed in ((self.keys, keys), (self.values, values)):
            for layer, rows in packed.items():
                pool[layer][page_T, :, offset_T] = rows

    def read(self, page_T: Tensor, offset_T: Tensor) -> tuple[dict[int, Tensor], dict[int, Tensor]]:
        """Packed keys and values [T, Kv, D] by layer."""
        found = [{layer: x[page_T, :, offset_T] for layer, x in pool.items()} for pool in (self.keys, self.values)]
        return found[0], found[1]

    def routing_of(self, pages: list[int], tokens: int) -> np.ndarray | None:
        """Expert choices [tokens, layers, K] of a sequence that has these pages; None where nobody records them."""
        if self.routing is None:
            return None
        held = self.routing[pages[: -(-tokens // self.page_tokens)]]
        return held.flatten(0, 1)[:tokens].cpu().numpy().copy()

    def fill(self, first_slot: int, states: dict[int, Tensor], tails: dict[int, Tensor], sources: list[int]) -> None:
        """Lightning states of sequences `sources` of a pass into consecutive slots; one source may serve many."""
        index = on_device(sources, self.table_SM.device)
        for table, found in ((self.states, states), (self.tails, tails)):
            for layer, rows in found.items():
                table[layer][first_slot : first_slot + len(sources)] = rows[index]

    def lightning(self, layer: int, position_B: Tensor) -> tuple[Tensor, ...]:
        """What a lightning layer decodes the first rows with."""
        state = self.states[layer][: len(position_B)]
        return (state, self.tails[layer][: len(position_B)], position_B) if self.tails else (state,)

    def copy_pages(self, sources: list[int], targets: list[int]) -> None:
        for pool in self._pools:
            pool[targets] = pool[sources]

    def move(self, sources: Tensor, targets: Tensor) -> None:
        for tensor in (*self._tables, self.table_SM):
            tensor[targets] = tensor[sources]

    def idle(self, slots: slice, rows: Rows) -> None:
        """Rows that a CUDA graph computes beside the running ones: they stand at position 0 and write into page 0."""
        if self.table_SM.is_cuda:
            self.table_SM[slots], rows.position[slots], rows.token[slots] = 0, 0, 0

    def save(self, slot: int, pages: list[int]) -> Saved:
        return Saved([x[slot].cpu().clone() for x in self._tables], [pool[pages].cpu() for pool in self._pools])

    def restore(self, slot: int, pages: list[int], saved: Saved) -> None:
        for table, state in zip(self._tables, saved.states, strict=True):
            table[slot] = state.to(table.device)
        for pool, copy in zip(self._pools, saved.pages, strict=True):
            pool[pages] = copy.to(pool.device)
        self.set_pages(slot, [pages])

    def paging(self, positions_B: Tensor, pages: int) -> Paging:
        """Where the tokens at `positions_B` go, for rows whose sequences have at most `pages` pages."""
        table_BM = self.table_SM[: len(positions_B), :pages]
        page_B = table_BM.gather(1, (positions_B // self.page_tokens)[:, None]).squeeze(1)
        return Paging(page_B, positions_B % self.page_tokens, table_BM, positions_B + 1)


def cache_pages(
    config: ModelConfig,
    slots: int,
    max_length: int,
    kv_tokens: int | None,
    page_tokens: int,
    dtype: torch.dtype,
    device: torch.device,
    record_routing: bool = False,
    tail_tokens: int = 0,
) -> int:
    """Pages that hold `kv_tokens`, or else every slot at `max_length` as far as a share of the free memory goes.

    Raises ValueError where the slots' states alone take more than that.
    """
    most = -(-max_length // page_tokens) * slots
    if kv_tokens is not None:
        return max(1, min(most, -(-kv_tokens // page_tokens)))
    states = slots * (state_bytes(config) + tail_bytes(config, tail_tokens, dtype.itemsize))
    free = _free_bytes(device) - states
    routing = routing_bytes(config, page_tokens) if record_routing else 0
    page_bytes = max(1, kv_bytes(config, page_tokens, dtype.itemsize) + routing)
    if free < page_bytes:
        raise ValueError(f"slots={slots}: their states take {states >> 20} MiB, and {(free + states) >> 20} are free")
    return max(1, min(most, free // page_bytes, _MOST_PAGES))


def _free_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0] * _GPU_SHARE)
    return int(os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") * _CPU_SHARE)


def _zeros(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Zeros that cost no memory before they are written to, where the system works that way."""
    if device.type != "cpu":
        return torch.zeros(shape, dtype=dtype, device=device)
    return torch.from_numpy(np.zeros((*shape[:-1], shape[-1] * dtype.itemsize), np.uint8)).view(dtype)
