"""Whole decoding steps of few kernels against the layers' own `decode`, in Triton's interpreter and float32."""

from __future__ import annotations

import pytest
import torch

from lightning_cispo.configs.schema import ModelConfig
from lightning_cispo.model.generation.cache import DecodeCache
from lightning_cispo.model.generation.decode import Decoder
from lightning_cispo.model.generation.rows import Rows
from lightning_cispo.model.network import MiniMax
from tests.kernels.interpreted import interpreted

SHAPES = {
    "the plain one": {},
    "pre-norm, partial rotation, dims that are no powers of two": dict(
        postnorm=False, head_dim=24, rotary_dim=8, hidden_size=40, intermediate_size=24, num_attention_heads=3,
        num_key_value_heads=1, num_local_experts=5, num_experts_per_tok=3, vocab_size=70,
    ),
    "wide heads": dict(head_dim=128, num_attention_heads=2, num_key_value_heads=2, num_local_experts=3),
    "residuals and scales": dict(
        layernorm_full_attention_alpha=1.7, layernorm_linear_attention_beta=0.6, layernorm_mlp_alpha=1.3,
        layernorm_mlp_beta=0.8, postnorm=True,
    ),
}  # fmt: skip


def check_step(name: str, exact: bool) -> None:
    """Two steps of rows at several positions, one of them idle, from a cache that holds random numbers.

    The exact step's states are those before a tile of 64 tokens: at the positions that it begins with, the others' too.
    """
    from lightning_cispo.model.generation.exact_step import ExactStep
    from lightning_cispo.model.generation.fused import FusedStep

    torch.manual_seed(0)
    shape = dict(vocab_size=64, hidden_size=32, intermediate_size=32, num_hidden_layers=4, softmax_every=2)
    network = MiniMax(ModelConfig(**(shape | SHAPES[name]))).initialize(0)
    slots, page, tile = 5, 64 if exact else 16, 64 if exact else 0
    sides = []
    for tail in (0, tile):
        cache, rows = (
            DecodeCache(network.config, slots, 30, page, torch.float32, torch.device("cpu"), tail_tokens=tail),
            Rows(slots, 5, torch.device("cpu")),
        )
        torch.manual_seed(1)
        for tensor in (*cache.states.values(), *cache.keys.values(), *cache.values.values()):
            tensor.normal_()
        cache.set_pages(0, [[1 + 6 * s + i for i in range(6)] for s in range(slots)])
        cache.table_SM[1] = 0
        rows.position[:] = torch.tensor([64, 0, 128, 64, 128] if exact else [15, 0, 1, 70, 16])
        rows.token[:] = torch.tensor([7, 0, 9, 63, 11])
        sides.append((cache, rows))
    (plain_cache, plain_rows), (cache, rows) = sides
    busy = rows.position > 0
    fewer = (ExactStep if exact else FusedStep)(network, cache, rows)
    plain = Decoder(network, plain_cache, plain_rows)
    with torch.inference_mode():
        for _ in range(2):
            wanted, found = plain._decode(slots, 6), fewer(slots)
            torch.testing.assert_close(found[busy], wanted[busy], rtol=2e-4, atol=2e-5)
            for table in (rows, plain_rows):
                table.position[busy] += 1
    for layer in () if exact else cache.states:
        torch.testing.assert_close(cache.states[layer][busy], plain_cache.states[layer][busy], rtol=1e-4, atol=1e-5)
    for ours, theirs in ((cache.keys, plain_cache.keys), (cache.values, plain_cache.values)):
        for layer in ours:
            torch.testing.assert_close(ours[layer][1:], theirs[layer][1:], rtol=1e-4, atol=1e-5)
    assert (fewer.choices_LBK[:, busy] >= 0).all() and (fewer.choices_LBK[:, ~busy] == -1).all()


@interpreted
@pytest.mark.parametrize("exact", [False, True], ids=["fused", "exact"])
@pytest.mark.parametrize("name", SHAPES)
def test_in_the_interpreter(name, exact):
    check_step(name, exact)
