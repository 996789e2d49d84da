"""Paged attention against softmax over each sequence's own keys, in float64."""

from __future__ import annotations

import pytest
import torch

from lightning_cispo.kernels.paged import paged_attention, paged_attention_reference
from tests.kernels.interpreted import interpreted


def case(dtype=torch.float64, heads=4, kv_heads=2, dim=8, page=16, device="cpu"):
    """Sequences of many lengths over shuffled pages, with what lies beyond each length set to a huge number."""
    generator = torch.Generator().manual_seed(0)
    lengths = torch.tensor([1, 15, 16, 17, 64, 3, 100])
    width = 8
    order = 1 + torch.randperm(len(lengths) * width, generator=generator)
    table = order.view(len(lengths), width)
    shape = (1 + table.numel(), kv_heads, page, dim)
    keys, values = (torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(2))
    packed = []
    for row, length in zip(table, lengths.tolist(), strict=True):
        packed.append([x[row].transpose(1, 2).flatten(0, 1)[:length].clone() for x in (keys, values)])
        for position in range(length, width * page):
            keys[row[position // page], :, position % page] = 1e30
            values[row[position // page], :, position % page] = 1e30
    q = torch.randn(len(lengths), heads, dim, generator=generator, dtype=torch.float64)
    expected = []
    for query, (k, v) in zip(q, packed, strict=True):
        k, v = (x.repeat_interleave(heads // kv_heads, dim=1) for x in (k, v))
        weights = (torch.einsum("hd,lhd->hl", query, k) * dim**-0.5).softmax(-1)
        expected.append(torch.einsum("hl,lhd->hd", weights, v))
    moved = [x.to(dtype).to(device) for x in (q, keys, values)]
    return (*moved, table.to(device), lengths.to(device)), torch.stack(expected)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_reference(dtype, tolerance):
    arguments, expected = case(dtype)
    torch.testing.assert_close(paged_attention(*arguments).double(), expected, rtol=tolerance, atol=tolerance)


def check_triton(device: str) -> None:
    """Every branch of the kernels: one split and several, groups padded, dims that are no power of two."""
    from lightning_cispo.kernels.decoding import attention_triton as paged_triton

    for heads, kv_heads, dim, page in ((4, 2, 16, 16), (6, 1, 24, 32), (2, 2, 64, 16)):
        for tokens in (16, 512):
            paged_triton._SPLIT_TOKENS = tokens
            arguments, expected = case(torch.float32, heads, kv_heads, dim, page, device)
            found = paged_triton.paged_attention_triton(*arguments)
            torch.testing.assert_close(found.cpu().double(), expected, rtol=1e-4, atol=1e-4)
            reference = paged_attention_reference(*arguments)
            torch.testing.assert_close(found, reference, rtol=1e-4, atol=1e-4)
    try:
        paged_triton.paged_attention_triton(*case(torch.float32, page=24, device=device)[0])
    except ValueError as error:
        assert "power of two" in str(error)
    else:
        raise AssertionError("pages of 24 tokens were taken")


@interpreted
def test_triton_in_its_interpreter(monkeypatch):
    from lightning_cispo.kernels.decoding import attention_triton

    monkeypatch.setattr(attention_triton, "_SPLIT_TOKENS", None)  # put back after `check_triton` has set it
    check_triton("cpu")
