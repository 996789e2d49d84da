"""The memory of sequences being decoded: lightning states and keys in slots, the running ones always first."""

from __future__ import annotations

import torch
from torch import Tensor

from configs.schema import SOFTMAX, ModelConfig
from model.layers import Context


class DecodeCache:
    """State of up to `slots` sequences. Rows [0, running) are in use: decoding then touches one contiguous block.

    A lightning layer keeps [slots, H, D, D] float32, whatever the length; a softmax layer keeps keys and values
    [slots, capacity, Kv, D] whose capacity grows by doubling as sequences do.
    """

    def __init__(self, config: ModelConfig, slots: int, dtype: torch.dtype, device: torch.device):
        self.slots = slots
        heads, dim = config.num_attention_heads, config.head_dim
        self.states: dict[int, Tensor] = {}
        self.keys: dict[int, Tensor] = {}
        self.values: dict[int, Tensor] = {}
        for layer, kind in enumerate(config.layer_types):
            if kind == SOFTMAX:
                for cache in (self.keys, self.values):
                    cache[layer] = torch.zeros(slots, 0, config.num_key_value_heads, dim, dtype=dtype, device=device)
            else:
                self.states[layer] = torch.zeros(slots, heads, dim, dim, device=device)

    def reserve(self, length: int) -> None:
        """Make room for sequences of `length` tokens."""
        for cache in (self.keys, self.values):
            for layer, old in cache.items():
                if length > old.shape[1]:
                    grown = old.new_zeros(self.slots, max(length, 2 * old.shape[1]), *old.shape[2:])
                    grown[:, : old.shape[1]] = old
                    cache[layer] = grown

    def fill(self, first_slot: int, context: Context, sources: list[int]) -> None:
        """Copy sequences `sources` of a prefill's context into consecutive slots; one source may serve many."""
        slots = slice(first_slot, first_slot + len(sources))
        for layer, state in context.states.items():
            self.states[layer][slots] = state[sources]
        lengths = context.lengths_S.tolist()
        for cache, packed in ((self.keys, context.keys), (self.values, context.values)):
            for layer, rows in packed.items():
                parts = rows.split(lengths)
                for slot, source in enumerate(sources, first_slot):
                    cache[layer][slot, : lengths[source]] = parts[source]

    def move(self, sources: list[int], targets: list[int]) -> None:
        for cache in (self.states, self.keys, self.values):
            for tensor in cache.values():
                tensor[targets] = tensor[sources]

    def layer(self, index: int, running: int) -> tuple[Tensor, ...]:
        """What a layer's `decode` needs, for the running rows."""
        if index in self.states:
            return (self.states[index][:running],)
        return self.keys[index][:running], self.values[index][:running]
