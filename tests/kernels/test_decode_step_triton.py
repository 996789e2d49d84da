"""A whole decoding step of fused kernels against the layers' own `decode`, in Triton's interpreter and float32."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys

import pytest
import torch

from configs.schema import ModelConfig
from model.generation.cache import DecodeCache
from model.generation.decode import Decoder
from model.generation.rows import Rows
from model.network import MiniMax

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


def check_step(name: str) -> None:
    """Three steps of rows at several positions, one of them idle, from a cache that holds random numbers."""
    from model.generation.fused import FusedStep

    torch.manual_seed(0)
    shape = dict(vocab_size=64, hidden_size=32, intermediate_size=32, num_hidden_layers=4, softmax_every=2)
    network = MiniMax(ModelConfig(**(shape | SHAPES[name]))).initialize(0)
    slots, page = 5, 16
    sides = []
    for _ in range(2):
        torch.manual_seed(1)
        cache, rows = (
            DecodeCache(network.config, slots, 30, page, torch.float32, torch.device("cpu")),
            Rows(slots, 5, torch.device("cpu")),
        )
        for tensor in (*cache.states.values(), *cache.keys.values(), *cache.values.values()):
            tensor.normal_()
        cache.set_pages(0, [[1 + 6 * s + i for i in range(6)] for s in range(slots)])
        cache.table_SM[1] = 0
        rows.position[:] = torch.tensor([15, 0, 1, 70, 16])
        rows.token[:] = torch.tensor([7, 0, 9, 63, 11])
        sides.append((cache, rows))
    (plain_cache, plain_rows), (cache, rows) = sides
    busy = rows.position > 0
    fused, plain = FusedStep(network, cache, rows), Decoder(network, plain_cache, plain_rows)
    with torch.inference_mode():
        for _ in range(3):
            wanted, found = plain._decode(slots, 6), fused(slots)
            torch.testing.assert_close(found[busy], wanted[busy], rtol=2e-4, atol=2e-5)
            for table in (rows, plain_rows):
                table.position[busy] += 1
    for ours, theirs in ((cache.states, plain_cache.states),):
        for layer in ours:
            torch.testing.assert_close(ours[layer][busy], theirs[layer][busy], rtol=1e-4, atol=1e-5)
    for ours, theirs in ((cache.keys, plain_cache.keys), (cache.values, plain_cache.values)):
        for layer in ours:
            torch.testing.assert_close(ours[layer][1:], theirs[layer][1:], rtol=1e-4, atol=1e-5)
    assert (fused.choices_LBK[:, busy] >= 0).all() and (fused.choices_LBK[:, ~busy] == -1).all()


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")
@pytest.mark.parametrize("name", SHAPES)
def test_in_the_interpreter(name):
    script = f"from tests.kernels.test_decode_step_triton import *; check_step({name!r})"
    environment = os.environ | {"TRITON_INTERPRET": "1"}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
