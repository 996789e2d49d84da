"""The exact mode's kernels: right, and a row's bits whatever is beside it; in the interpreter and on devices."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_cispo.kernels.attention import varlen_attention
from lightning_cispo.kernels.lightning.qkv import silu_lightning
from lightning_cispo.model.layers import rotate
from tests.kernels.interpreted import interpreted


def relative(found: Tensor, exact: Tensor) -> float:
    return float((found.double().cpu() - exact.cpu()).norm() / exact.norm().cpu())


def same(found: Tensor, wanted: Tensor) -> bool:
    """Equal to the bit; the interpreter's matrix product (NumPy's) rounds by where in a tile a row lies."""
    if found.is_cuda:
        return torch.equal(found, wanted)
    return torch.allclose(found.float(), wanted.float(), rtol=4e-3 if found.dtype is torch.float16 else 1e-4, atol=1e-5)


def check_linear(device: str, dtype: torch.dtype) -> None:
    """Dense, sorted by expert, and float32 weights beside narrow rows; against float64, and rows by themselves."""
    from lightning_cispo.kernels.exact.linear_triton import dense_triton, linear_triton

    generator = torch.Generator().manual_seed(0)
    bound = 2e-6 if dtype is torch.float32 else 2 * torch.finfo(dtype).eps
    for depth, columns in ((64, 48), (80, 33)):
        x = torch.randn(70, depth, generator=generator).to(device, dtype)
        weight = torch.randn(5, columns, depth, generator=generator).to(device, dtype)
        y = linear_triton(x, weight[0])
        assert relative(y, F.linear(x.double(), weight[0].double())) < bound
        for rows in (slice(0, 1), slice(64, 70)):
            assert torch.equal(linear_triton(x[rows], weight[0]), y[rows])
        for rows in (slice(13, 20), slice(3, 69)):
            assert same(linear_triton(x[rows], weight[0]), y[rows])
        if device == "cuda":  # whole tiles by the tensor memory accelerator, and what is left over
            assert torch.equal(dense_triton(x.repeat(10, 1), weight[0], dtype), y.repeat(10, 1))
        ends = torch.tensor([7, 7, 40, 69, 70], dtype=torch.int32, device=device)
        y = linear_triton(x, weight, ends)
        alone = torch.cat([linear_triton(part, w) for part, w in zip(x.split([7, 0, 33, 29, 1]), weight, strict=True)])
        assert same(y, alone)
        source = torch.randint(0, 70, (70,), generator=generator).to(device)
        assert torch.equal(linear_triton(x, weight, ends, source_N=source), linear_triton(x[source], weight, ends))
        wide = torch.randn(columns, depth, generator=generator).to(device)
        if dtype is not torch.float16:  # three of which do not make a float32
            y = linear_triton(x, wide, dtype=torch.float32)
            assert relative(y, F.linear(x.double(), wide.double())) < 2e-6
            assert same(linear_triton(x[5:9], wide, dtype=torch.float32), y[5:9])
            y = dense_triton(x, wide, torch.float32)
            assert relative(y, F.linear(x.double(), wide.double())) < 2e-6
            assert same(dense_triton(x[5:9], wide, torch.float32), y[5:9])


def check_lightning(device: str, dtype: torch.dtype) -> None:
    """Packed rows against float64, then token by token over the state and tail that a first part has left."""
    from lightning_cispo.kernels.exact.lightning_triton import lightning_decode_triton, lightning_triton, tails_triton

    generator = torch.Generator().manual_seed(0)
    for heads, dim, lengths, begun in ((2, 16, [70, 3, 128], [64, 1, 64]), (1, 24, [131], [125])):
        qkv = torch.randn(sum(lengths), heads * 3 * dim, generator=generator).to(device, dtype)
        slopes = torch.linspace(0.9, 1e-4, heads, dtype=torch.float64, device=device)
        cu = torch.tensor([0, *lengths], device=device).cumsum(0)
        o, after = lightning_triton(qkv, slopes, cu, None, True)
        expected, _ = silu_lightning(qkv.double(), slopes, cu)
        assert relative(o, expected) < (2e-6 if dtype is torch.float32 else 4 * torch.finfo(dtype).eps)
        for index, (length, start) in enumerate(zip(lengths, begun, strict=True)):
            own = slice(int(cu[index]), int(cu[index]) + length)
            first, rest = slice(own.start, own.start + start), slice(own.start + start, own.stop)
            border = torch.tensor([0, start], device=device)
            part, state = lightning_triton(qkv[first], slopes, border, None, True)
            assert same(part, o[first])
            tail = tails_triton(qkv[first], heads, border)
            if start % 64 == 0:
                border = torch.tensor([0, length - start], device=device)
                part, _ = lightning_triton(qkv[rest], slopes, border, state, False)
                assert torch.equal(part, o[rest])
            for token in range(rest.start, rest.stop):
                at = torch.tensor([token - own.start], device=device)
                one = lightning_decode_triton(qkv[token : token + 1], slopes, at, state, tail)[0]
                assert same(one, o[token]), token
            assert same(state[0], after[index])
            idle = lightning_decode_triton(
                qkv[:1], slopes, torch.zeros(1, dtype=torch.int64, device=device), state, tail
            )
            assert not idle.any()


def check_attention(device: str, dtype: torch.dtype) -> None:
    """Packed rows against float64; the same with a left context; then one token at a time over pages."""
    from lightning_cispo.kernels.exact.attention_triton import TILE, attention_triton, paged_triton

    generator = torch.Generator().manual_seed(0)
    for heads, kv_heads, dim, lengths in ((4, 2, 16, [5, 130, 64]), (3, 1, 24, [70]), (2, 1, 16, [1100])):
        q = torch.randn(sum(lengths), heads, dim, generator=generator).to(device, dtype)
        k, v = torch.randn(2, sum(lengths), kv_heads, dim, generator=generator).to(device, dtype)
        cu = torch.tensor([0, *lengths], device=device).cumsum(0)
        o = attention_triton(q, k, v, cu, cu)
        expected = varlen_attention(q.double(), k.double(), v.double(), cu)
        assert relative(o, expected) < (2e-6 if dtype is torch.float32 else 4 * torch.finfo(dtype).eps)
        for start, length in zip(cu.tolist(), lengths, strict=False):
            own, late = slice(start, start + length), slice(start + length // 3, start + length)
            cu_q = torch.tensor([0, late.stop - late.start], device=device)
            cu_k = torch.tensor([0, length], device=device)
            assert same(attention_triton(q[late], k[own], v[own], cu_q, cu_k), o[late])
            pages = -(-length // TILE)
            padded = [F.pad(x[own], (0, 0, 0, 0, 0, pages * TILE - length)) for x in (k, v)]
            keys, values = (x.view(pages, TILE, kv_heads, dim).transpose(1, 2).contiguous() for x in padded)
            table = torch.arange(pages, device=device).expand(3, -1).contiguous()
            for token in {0, 1, length // 2, length - 1}:
                seen = torch.full((3,), token + 1, device=device)
                one = q[start + token].expand(3, -1, -1)
                assert same(paged_triton(one, keys, values, table, seen)[1], o[start + token])


def check_rotation(device: str, dtype: torch.dtype) -> None:
    """Packed rows as the network turns them; then one token, whose key and value go to its page."""
    from lightning_cispo.kernels.exact.rotary_triton import place_triton, rotate_triton

    generator = torch.Generator().manual_seed(0)
    for heads, kv_heads, dim, half in ((4, 2, 16, 8), (3, 1, 24, 4)):
        x = torch.randn(5, heads + 2 * kv_heads, dim, generator=generator).to(device, dtype)
        q, k, v = x.split([heads, kv_heads, kv_heads], 1)
        angles = torch.rand(5, half, generator=generator).to(device) * 6
        turned = [rotate_triton(part, angles.cos(), angles.sin()) for part in (q, k)]
        for found, part in zip(turned, (q, k), strict=True):
            exact = rotate(part.double(), angles.double().cos(), angles.double().sin())
            assert relative(found, exact) < 2 * torch.finfo(dtype).eps
        keys, values = torch.zeros(2, 4, kv_heads, 64, dim, device=device, dtype=dtype)
        table = torch.tensor([[1, 3], [2, 0]], device=device)[:, :2].contiguous()
        out, position = torch.zeros(2, heads, dim, device=device, dtype=dtype), torch.tensor([70, 0], device=device)
        rows = tuple(part[:2].contiguous() for part in (q, k, v))
        place_triton(rows, angles.cos(), angles.sin(), out, keys, values, table, position)
        assert torch.equal(out[0], turned[0][0]) and not out[1].any()
        assert torch.equal(keys[3, :, 6], turned[1][0]) and torch.equal(values[3, :, 6], v[0])
        assert keys.count_nonzero() <= kv_heads * dim and values.count_nonzero() <= kv_heads * dim


def check_rows(device: str, dtype: torch.dtype) -> None:
    """Routing, sorting, SwiGLU and weighted sum: against torch, and rows by themselves."""
    from lightning_cispo.kernels.exact.rows_triton import route_triton, sort_triton, swiglu_triton, weighted_sum_triton

    generator = torch.Generator().manual_seed(0)
    bound = 1e-6 if dtype is torch.float32 else 2 * torch.finfo(dtype).eps
    for experts, top_k in ((16, 2), (5, 1), (32, 3)):
        logits = torch.randn(37, experts, generator=generator).to(device)
        weight, expert = route_triton(logits, top_k, None)
        p, own = logits.softmax(-1).topk(top_k, dim=-1)
        assert torch.equal(expert, own)
        torch.testing.assert_close(weight, p / p.sum(-1, keepdim=True))
        for rows in (slice(0, 1), slice(5, 20)):
            assert torch.equal(route_triton(logits[rows], top_k, None)[0], weight[rows])
        assert torch.equal(route_triton(logits, top_k, own)[0], weight)
        given = (own + 1) % experts
        share = logits.softmax(-1).gather(1, given)
        torch.testing.assert_close(route_triton(logits, top_k, given)[0], share / share.sum(-1, keepdim=True))
        source, place, ends = sort_triton(expert, experts)
        order = expert.flatten().argsort(stable=True)
        assert torch.equal(source.long(), order // top_k)
        assert torch.equal(place.long()[order], torch.arange(len(order), device=device))
        assert torch.equal(ends.long(), torch.bincount(expert.flatten(), minlength=experts).cumsum(0))
        rows = torch.randn(37 * top_k, 40, generator=generator).to(device, dtype)
        summed = weighted_sum_triton(rows, place, weight)
        exact = (rows.double()[place.long()].view(37, top_k, 40) * weight.double()[..., None]).sum(1)
        assert relative(summed, exact) < bound
        assert torch.equal(weighted_sum_triton(rows, place[top_k:], weight[1:]), summed[1:])
    joined = torch.randn(9, 66, generator=generator).to(device, dtype)
    gate, up = joined.double().chunk(2, -1)
    assert relative(swiglu_triton(joined), F.silu(gate) * up) < bound


def check_norms(device: str, dtype: torch.dtype) -> None:
    """A row's norms are what they are alone, also where others have a program for several rows."""
    from lightning_cispo.kernels.norm.launch import AddedStreamNorm, GatedRMSNorm, RMSNorm

    count, size = (5000, 1024) if device == "cuda" else (70, 24)
    x, other = torch.randn(2, count, size, device=device).to(dtype)
    weight = torch.randn(size, device=device)
    for rows in (slice(0, 1), slice(7, 70)):
        whole = RMSNorm.apply(x, weight, 1e-5, dtype, True)
        assert torch.equal(RMSNorm.apply(x[rows], weight, 1e-5, dtype, True), whole[rows])
        parts, wholes = (
            AddedStreamNorm.apply(a, b, (2.3, 1.0), weight, 1e-5, False, True)
            for a, b in ((x[rows], other[rows]), (x, other))
        )
        for part, whole in zip(parts, wholes, strict=True):
            assert torch.equal(part, whole[rows])
        whole = GatedRMSNorm.apply(x, other, weight, 1e-5, True)
        assert torch.equal(GatedRMSNorm.apply(x[rows], other[rows], weight, 1e-5, True), whole[rows])


def check_score(device: str, dtype: torch.dtype) -> None:
    """What the sampler says of the tokens that it draws, to the bit; entropies against float64."""
    from lightning_cispo.kernels.decoding.sample_triton import Draw, sample_triton
    from lightning_cispo.kernels.exact.score_triton import score_triton

    generator = torch.Generator().manual_seed(0)
    for vocabulary in (50, 5000):
        logits = (3 * torch.randn(6, vocabulary, generator=generator)).to(device)
        temperature = torch.tensor([1, 0.7, 1.3, 1, 0.5, 2], device=device)
        key, count = torch.arange(6, device=device) * 7919, torch.arange(6, device=device)
        stops = torch.zeros(6, 1, dtype=torch.int64, device=device)
        token, logprob = sample_triton(logits, Draw(temperature, key, count, torch.zeros_like(count)), stops, False)
        found, entropy, lse = score_triton(logits, temperature, token)
        assert torch.equal(found, logprob)
        tempered = logits.double() / temperature.double()[:, None]
        logp = tempered.log_softmax(-1)
        torch.testing.assert_close(lse.double(), tempered.logsumexp(-1), rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(found.double(), logp.gather(1, token[:, None])[:, 0], rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(entropy.double(), -(logp.exp() * logp).sum(-1), rtol=1e-5, atol=1e-5)
        assert torch.equal(score_triton(logits[2:3], temperature[2:3], token[2:3])[0], found[2:3])


def check_gradients(device: str, dtype: torch.dtype) -> None:
    """Of what has no ordinary forward, against float64's of the same functions; outputs are the kernels' own."""
    from lightning_cispo.kernels.exact.gradients import (
        ExactChoice,
        ExactLightning,
        ExactMasterLinear,
        ExactRouterLogits,
    )
    from lightning_cispo.kernels.exact.lightning_triton import lightning_triton
    from lightning_cispo.kernels.exact.linear_triton import dense_triton
    from lightning_cispo.kernels.exact.rows_triton import route_triton

    generator = torch.Generator().manual_seed(0)

    def randoms(*shape: int, kind: torch.dtype = dtype) -> Tensor:
        return torch.randn(*shape, generator=generator).to(device, kind)

    def compare(exact, ordinary, wanted: Tensor, *given: Tensor) -> None:
        leaves = [x.clone().requires_grad_() for x in given]
        wide = [x.double().requires_grad_() for x in given]
        out, reference = exact(*leaves), ordinary(*wide)
        assert torch.equal(out, wanted)
        dout = randoms(*out.shape)
        out.backward(dout.to(out.dtype))
        reference.backward(dout.double())
        for leaf, exactly in zip(leaves, wide, strict=True):
            narrowest = max(torch.finfo(dtype).eps, torch.finfo(leaf.dtype).eps)
            assert leaf.grad.dtype is leaf.dtype
            assert relative(leaf.grad, exactly.grad) < max(2e-6, 4 * narrowest)

    slopes = torch.tensor([0.9, 1e-3], dtype=torch.float64, device=device)
    cu = torch.tensor([0, 70, 73, 201], device=device)
    qkv = randoms(201, 2 * 3 * 16)
    compare(
        lambda x: ExactLightning.apply(x, slopes, cu),
        lambda x: silu_lightning(x, slopes, cu)[0],
        lightning_triton(qkv, slopes, cu, None, False)[0],
        qkv,
    )
    logits = randoms(70, 6, kind=torch.float32)
    for given in (None, torch.rand(70, 6, generator=generator).topk(2).indices.to(device)):
        weight, chosen = route_triton(logits, 2, given)
        compare(
            lambda x, given=given: ExactChoice.apply(x, 2, given)[0],
            lambda x, chosen=chosen: x.gather(1, chosen).softmax(-1),
            weight,
            logits,
        )
    x, router = randoms(70, 64), randoms(6, 64, kind=torch.float32)
    compare(ExactRouterLogits.apply, F.linear, dense_triton(x, router, torch.float32), x, router)
    if device == "cuda" and dtype is not torch.float32:  # torch has no such product on CPUs
        weight = randoms(48, 64, kind=torch.float32)
        compare(
            ExactMasterLinear.apply,
            lambda x, w: F.linear(x, w.to(dtype).double()),
            dense_triton(x, weight.to(dtype), dtype),
            x,
            weight,
        )


CHECKS = [
    *(check_linear, check_lightning, check_attention, check_rotation),
    *(check_rows, check_norms, check_score, check_gradients),
]


@interpreted
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_kernels_in_the_interpreter(check, dtype):
    check("cpu", dtype)
