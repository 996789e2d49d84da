"""On CPUs in float32 a sequence's hidden states are its own to the bit, whatever is computed beside it."""

from __future__ import annotations

import shutil

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lightning_cispo.configs.schema import ModelConfig
from lightning_cispo.model.layers import Context
from lightning_cispo.model.network import MiniMax
from lightning_cispo.model.routing import Routing

pytestmark = pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")

SHAPES = {
    "even": dict(hidden_size=32, intermediate_size=32, num_attention_heads=4, num_key_value_heads=2, head_dim=16),
    # No width is a whole number of vectors, and the shared expert's silu has a tail.
    "odd": dict(hidden_size=36, intermediate_size=20, num_attention_heads=3, num_key_value_heads=1, head_dim=12)
    | dict(num_experts_per_tok=3, num_local_experts=5, shared_intermediate_size=12),
    "pre-norm": dict(hidden_size=44, intermediate_size=24, num_attention_heads=2, num_key_value_heads=2, head_dim=20)
    | dict(postnorm=False, softmax_every=1),
}
NETWORKS = {
    name: MiniMax(ModelConfig(**(dict(vocab_size=61, num_hidden_layers=3, softmax_every=2) | shape))).initialize(0)
    for name, shape in SHAPES.items()
}
LENGTHS = st.lists(st.sampled_from([1, 2, 6, 8, 17, 64, 65, 130, 260]), min_size=1, max_size=5)


@pytest.fixture(autouse=True)
def threads():
    held = torch.get_num_threads()
    yield
    torch.set_num_threads(held)


def sequences(lengths: list[int]) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randint(61, (n,), generator=generator) for n in lengths]


def hidden(network: MiniMax, rows: list[Tensor], threads: int, recorded: bool = False) -> list[Tensor]:
    torch.set_num_threads(threads)
    borders = F.pad(torch.tensor([len(row) for row in rows]).cumsum(0), (1, 0))
    output = network(torch.cat(rows), borders, routing=Routing() if recorded else None)
    return list(output.hidden_TX.detach().split([len(row) for row in rows]))


@pytest.mark.parametrize("shape", SHAPES)
@settings(max_examples=12)
@given(LENGTHS, st.integers(1, 3), st.integers(1, 3), st.booleans(), st.booleans())
def test_alone_and_in_company(shape, lengths, few, many, trains, recorded):
    rows = sequences(lengths)
    with torch.set_grad_enabled(trains):
        together = hidden(NETWORKS[shape], rows, many, recorded)
    with torch.no_grad():
        for row, found in zip(rows, together, strict=True):
            assert torch.equal(hidden(NETWORKS[shape], [row], few, recorded)[0], found)


@pytest.mark.parametrize("shape", SHAPES)
@settings(max_examples=12)
@given(LENGTHS, st.lists(st.integers(0, 4), min_size=5, max_size=5), st.integers(1, 3))
@torch.no_grad()
def test_in_whole_chunks_of_a_prefill(shape, lengths, chunks, threads):
    """Passes of which each reads what is left of a sequence, or whole chunks of 64 tokens."""
    network, rows = NETWORKS[shape], sequences(lengths)
    whole = hidden(network, rows, 1)
    torch.set_num_threads(threads)
    read, found, context = [0] * len(rows), [[] for _ in rows], None
    for passed in (chunks, [9] * 5):
        ends = [min(start + 64 * count, len(row)) for start, count, row in zip(read, passed, rows, strict=False)]
        pieces = [row[start:end] for row, start, end in zip(rows, read, ends, strict=True)]
        borders = F.pad(torch.tensor([len(piece) for piece in pieces]).cumsum(0), (1, 0))
        output = network(torch.cat(pieces), borders, past=context, return_context=True)
        assert isinstance(output.context, Context)
        read, context = ends, output.context
        for parts, rest in zip(found, output.hidden_TX.split([len(piece) for piece in pieces]), strict=True):
            parts.append(rest)
    for parts, wanted in zip(found, whole, strict=True):
        assert torch.equal(torch.cat(parts), wanted)
