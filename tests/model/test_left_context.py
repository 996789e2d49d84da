"""Sequences read in pieces and continued token by token are what one pass makes of them, in float64."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lightning_cispo.configs.schema import ModelConfig
from lightning_cispo.model.attention import Paging
from lightning_cispo.model.layers import Context
from lightning_cispo.model.network import MiniMax
from tests.model.oracle import worst

CONFIG = ModelConfig(
    vocab_size=61,
    hidden_size=32,
    intermediate_size=24,
    num_hidden_layers=4,
    num_attention_heads=6,
    head_dim=16,
    softmax_every=2,
    rotary_dim=8,
)
NETWORK = MiniMax(CONFIG, torch.float64).double().initialize(1).requires_grad_(False)
LENGTHS = (150, 1, 67)  # a chunk and more, a single token
TOKENS = [torch.randint(61, (n,), generator=torch.Generator().manual_seed(n)) for n in LENGTHS]
WHOLE = [NETWORK(tokens, torch.tensor([0, len(tokens)])).hidden_TX for tokens in TOKENS]


def read(pieces: list[Tensor], past: Context | None) -> tuple[list[Tensor], Context]:
    """One pass over a piece of every sequence; pieces may be empty."""
    borders = F.pad(torch.tensor([len(piece) for piece in pieces]).cumsum(0), (1, 0))
    output = NETWORK(torch.cat(pieces), borders, past=past, return_context=True)
    assert output.context is not None
    return list(output.hidden_TX.split([len(piece) for piece in pieces])), output.context


@given(st.lists(st.tuples(*(st.integers(0, n) for n in LENGTHS)), min_size=1, max_size=4))
@settings(max_examples=40)
def test_prefill_in_any_split(cuts):
    """`cuts` are positions up to which each sequence has been read after each pass, in any order."""
    ends = [sorted(each) for each in zip(*cuts, strict=True)]
    starts, found, context = [0] * len(LENGTHS), [[] for _ in LENGTHS], None
    for stops in [*zip(*ends, strict=True), LENGTHS]:
        hidden, context = read([t[a:b] for t, a, b in zip(TOKENS, starts, stops, strict=True)], context)
        for parts, rows in zip(found, hidden, strict=True):
            parts.append(rows)
        starts = stops
    for parts, whole in zip(found, WHOLE, strict=True):
        assert worst(torch.cat(parts), whole) < 1e-11


def test_one_token_a_pass():
    context, tokens = None, TOKENS[2]
    for t in range(len(tokens)):
        [hidden], context = read([tokens[t : t + 1]], context)
        assert worst(hidden, WHOLE[2][t : t + 1]) < 1e-11


@pytest.mark.parametrize("prefilled", [1, 5, 64, 66])
def test_decoding_token_by_token(prefilled):
    """Lightning states in place and keys in pages of 8, two sequences at different positions."""
    tokens = [TOKENS[0][: prefilled + 80], TOKENS[2][:prefilled]]
    rest = [TOKENS[0][prefilled + 80 :], TOKENS[2][prefilled:]]
    _, context = read(tokens, None)
    size, lengths = 8, torch.tensor([len(t) for t in tokens])
    table = torch.randperm(40, generator=torch.Generator().manual_seed(0)).view(2, 20)
    pools = {}
    for layer in context.keys:
        pools[layer] = torch.zeros(2, 40, CONFIG.num_key_value_heads, size, CONFIG.head_dim, dtype=torch.float64)
        for pool, packed in zip(pools[layer], (context.keys[layer], context.values[layer]), strict=True):
            for row, sequence in enumerate(packed.split(lengths.tolist())):
                at = torch.arange(len(sequence))
                pool[table[row, at // size], :, at % size] = sequence
    for step in range(min(map(len, rest))):
        cos, sin = NETWORK.rotary(lengths)
        page = table.gather(1, (lengths // size)[:, None]).squeeze(1)
        paging = Paging(page, lengths % size, table, lengths + 1)
        x = NETWORK.model.embed_tokens(torch.stack([t[step] for t in rest]))
        for index, layer in enumerate(NETWORK.model.layers):
            cache = (context.states[index],) if index in context.states else (cos, sin, *pools[index], paging)
            x = layer.decode(x, *cache)
        wanted = torch.stack([WHOLE[0][prefilled + 80 + step], WHOLE[2][prefilled + step]])
        assert worst(NETWORK.model.norm(x), wanted) < 1e-11
        lengths = lengths + 1
