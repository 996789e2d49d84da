"""The native decoding step against the torch path, over the same cache."""

import shutil
from collections.abc import Sequence

import pytest
import torch

from lightning_cispo.configs.schema import ModelConfig
from lightning_cispo.model.generation.cache import DecodeCache
from lightning_cispo.model.generation.decode import Decoder
from lightning_cispo.model.generation.rows import Rows
from lightning_cispo.model.network import MiniMax

pytestmark = pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")
CPU, SLOTS, PAGES = torch.device("cpu"), 300, 3
SHAPES = {
    "as quickstart's": {"head_dim": 32},
    "nothing even": dict(
        hidden_size=44, intermediate_size=20, num_attention_heads=3, num_key_value_heads=1, head_dim=24, vocab_size=37,
        num_local_experts=5, num_experts_per_tok=3, shared_intermediate_size=12, rotary_dim=10, postnorm=False,
    ),
    "one expert for all": {"head_dim": 16, "num_local_experts": 9, "num_experts_per_tok": 1, "layernorm_mlp_beta": 1.5},
    "wide": {"hidden_size": 600, "head_dim": 128, "intermediate_size": 300, "shared_intermediate_size": 530},
}  # fmt: skip


def made(shape: str) -> Decoder:
    """A decoder over random states and keys, every sequence somewhere within its pages."""
    fields = dict(hidden_size=32, num_hidden_layers=3, attn_type_list=[0, 1, 0], num_local_experts=4) | SHAPES[shape]
    torch.manual_seed(0)
    network = MiniMax(ModelConfig(**fields)).initialize(0)
    scale = network.config.hidden_size**-0.5 / network.config.initializer_range
    for name, parameter in network.named_parameters():
        parameter.data.mul_(1 + 0.1 * torch.randn_like(parameter) if "norm" in name else scale)
    network.model.layers[1].mlp.gate.weight.data[0] -= 1e3 * (shape == "one expert for all")
    cache = DecodeCache(network.config, SLOTS, SLOTS * PAGES, 16, torch.float32, CPU)
    for tensor in (*cache.states.values(), *cache.keys.values(), *cache.values.values()):
        tensor.normal_()
    cache.set_pages(0, torch.randperm(SLOTS * PAGES).add(1).view(SLOTS, PAGES).tolist())
    rows = Rows(SLOTS, 0, CPU)
    rows.token.random_(network.config.vocab_size)
    rows.position.random_(16 * PAGES - 4)
    return Decoder(network.eval(), cache, rows)


def steps(decoder: Decoder, native: bool, order: Sequence[int], threads: int = 1) -> list[torch.Tensor]:
    """Three steps of these rows over a copy of the cache: logits, states, the new keys and values."""
    cache, rows, count = decoder.cache, decoder.rows, len(order)
    held = [*cache.states.values(), cache.table_SM, rows.token, rows.position]
    pools = [*cache.keys.values(), *cache.values.values()]
    saved = [tensor.clone() for tensor in (*held, *pools)]
    for tensor in held:
        tensor[:count] = tensor[list(order)]
    if native:
        _poison(decoder)
    kept = torch.get_num_threads()
    torch.set_num_threads(threads)
    result = []
    for _ in range(3):
        result.append(decoder(count, PAGES) if native else decoder._decode(count, PAGES))
        for row in range(count):
            page, offset = divmod(int(rows.position[row]), 16)
            result += [pool[cache.table_SM[row, page], :, offset].clone() for pool in pools]
        rows.position += 1
    torch.set_num_threads(kept)
    result += [tensor[:count].clone() for tensor in cache.states.values()]
    for tensor, copy in zip((*held, *pools), saved, strict=True):
        tensor.copy_(copy)
    return result


def _poison(decoder: Decoder) -> None:
    """NaN where no context reaches."""
    cache = decoder.cache
    for pool in (*cache.keys.values(), *cache.values.values()):
        for pages, position in zip(cache.table_SM, decoder.rows.position.tolist(), strict=True):
            page, offset = divmod(position, 16)
            pool[pages[page], :, offset:] = float("nan")
            pool[pages[page + 1 :]] = float("nan")


@pytest.mark.parametrize("count", [1, 13, 300])
@pytest.mark.parametrize("shape", SHAPES)
@torch.no_grad()
def test_native_steps_are_torchs(shape, count):
    decoder = made(shape)
    ours, torchs = (steps(decoder, native, range(count)) for native in (True, False))
    for one, other in zip(ours, torchs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4 * float(other.abs().max()))


@pytest.mark.parametrize("shape", SHAPES)
@torch.no_grad()
def test_a_row_is_the_same_whatever_is_beside_it(shape):
    decoder = made(shape)
    whole = steps(decoder, True, range(40))
    assert all(map(torch.equal, whole, steps(decoder, True, range(40), threads=3)))
    for order in ([7], [39, 3, 11, 12, 0], list(range(39, 24, -1))):
        part = steps(decoder, True, order)
        assert torch.equal(part[0], whole[0][order])
        for one, other in zip(part[-2:], whole[-2:], strict=True):
            assert torch.equal(one, other[order])


@torch.no_grad()
def test_weights_written_in_place_count_from_the_next_step():
    decoder = made("as quickstart's")
    before = steps(decoder, True, range(5))
    for parameter in decoder.network.parameters():
        parameter.mul_(1.1)
    after = steps(decoder, True, range(5))
    fresh = steps(Decoder(decoder.network, decoder.cache, decoder.rows), True, range(5))
    assert not torch.equal(before[0], after[0])
    assert all(map(torch.equal, after, fresh))


def test_torch_computes_where_writes_could_not_be_seen():
    with torch.inference_mode():
        decoder = made("as quickstart's")
    assert decoder.native is None
