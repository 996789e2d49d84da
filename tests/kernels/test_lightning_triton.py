"""The lightning kernels against the reference in float64: in Triton's interpreter here, on the device in tests/gpu."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lightning_cispo.kernels.lightning import lightning_attention, lightning_reference
from tests.kernels.interpreted import interpreted


def inputs(
    lengths: list[int], heads: int, dim: int, initial: bool, device: str, dtype: torch.dtype
) -> dict[str, Tensor]:
    """q, k, v interleaved per head as the network has them, borders, slopes from steep to flat."""
    generator = torch.Generator().manual_seed(sum(lengths) + dim)
    qkv = torch.randn(sum(lengths), heads, 3 * dim, generator=generator)
    found = dict(zip("qkv", qkv.to(device, dtype).split(dim, -1), strict=True))
    found["slopes"] = torch.linspace(0.9, 1e-4, heads, dtype=torch.float64, device=device)
    found["cu_seqlens"] = torch.tensor([0, *lengths], device=device).cumsum(0)
    if initial:
        found["initial"] = torch.randn(len(lengths), heads, dim, dim, generator=generator).to(device)
    return found


def outcome(given: dict[str, Tensor], attention, dtype: torch.dtype) -> list[Tensor]:
    """Output, final state, and the gradients of both with respect to q, k, v and the initial state, in float64."""
    leaves = [given[name].detach().to(dtype).requires_grad_() for name in "qkv"]
    if "initial" in given:
        state = torch.float64 if dtype is torch.float64 else torch.float32
        leaves.append(given["initial"].detach().to(state).requires_grad_())
    o, final = attention(*leaves[:3], given["slopes"], given["cu_seqlens"], *leaves[3:] or [None], True)
    generator = torch.Generator().manual_seed(1)
    grads = [torch.randn(x.shape, generator=generator).to(x.device, x.dtype) for x in (o, final)]
    torch.autograd.backward([o, final], grads)
    return [x.detach().double() for x in (o, final, *(leaf.grad for leaf in leaves))]


def errors(found: list[Tensor], exact: list[Tensor]) -> list[float]:
    return [float((a - b).norm() / b.norm().clamp(min=1e-12)) for a, b in zip(found, exact, strict=True)]


def check(
    device: str, lengths: list[int], heads: int, dim: int, initial: bool, dtype: torch.dtype, segment: int | None
):
    """Errors against float64: twice the reference in the same dtype, or float32 rounding. The same bits each time."""
    from lightning_cispo.kernels.lightning import launch as triton_side

    triton_side.segment_length = lambda *_: segment

    def kernel(q, k, v, slopes, cu_seqlens, initial_state, final):
        return triton_side.LightningAttention.apply(q, k, v, slopes, cu_seqlens, initial_state, final)

    given = inputs(lengths, heads, dim, initial, device, dtype)
    exact = outcome(given, lightning_reference, torch.float64)
    found, again = (outcome(given, kernel, dtype) for _ in range(2))
    plain = errors(outcome(given, lightning_reference, dtype), exact)
    for index, (ours, theirs) in enumerate(zip(errors(found, exact), plain, strict=True)):
        bar = max(2 * theirs, torch.finfo(torch.float32).eps)
        assert ours <= bar, (index, ours, theirs, lengths, heads, dim, initial, dtype, segment)
    assert all(torch.equal(a, b) for a, b in zip(found, again, strict=True))


def check_kept_segments(device: str) -> None:
    """They are found once for the same borders, and anew when those were written to."""
    from lightning_cispo.kernels.lightning.segments import cut_into_segments

    borders = torch.tensor([0, 700, 1000], device=device)
    found = cut_into_segments(borders, 1000, 512)
    assert cut_into_segments(borders, 1000, 512) is found and cut_into_segments(borders.clone(), 1000, 512) is not found
    borders[1] = 300
    assert cut_into_segments(borders, 1000, 512).start_G.tolist()[:3] == [0, 0, 512]
    with torch.inference_mode():
        inside = torch.tensor([0, 700, 1000], device=device)
        assert cut_into_segments(inside, 1000, 512).sequence_G.tolist()[:3] == [0, 0, 1]


CASES = [
    ([100, 1, 0, 64, 130], 2, 16, True, None),
    ([100, 1, 0, 64, 130], 2, 16, True, 64),
    ([100, 1, 0, 64, 130], 2, 16, False, 64),
    ([150], 3, 24, False, None),
    ([190], 1, 96, True, 128),
]


@interpreted
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("case", CASES)
def test_in_the_interpreter(case, dtype, monkeypatch):
    from lightning_cispo.kernels.lightning import launch

    monkeypatch.setattr(launch, "segment_length", None)  # put back after `check` has set it
    *shape, segment = case
    check("cpu", *shape, dtype, segment)


@interpreted
def test_segments_in_the_interpreter():
    check_kept_segments("cpu")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"k": torch.zeros(5, 2, 8)}, "k is"),
        ({"v": torch.zeros(6, 2, 8, dtype=torch.bfloat16)}, "v is .*bfloat16"),
        ({name: torch.zeros(6, 2, 8, dtype=torch.int64) for name in "qkv"}, "q is .*int64"),
        ({"slopes": torch.zeros(3)}, "slopes is .3,."),
        ({"slopes": torch.zeros(2, dtype=torch.bfloat16)}, "slopes is .*bfloat16"),
        ({"slopes": torch.zeros(2, device="meta")}, "slopes is on meta, q on cpu"),
        ({"cu_seqlens": torch.zeros(3, dtype=torch.int64, device="meta")}, "cu_seqlens is on meta"),
        ({"cu_seqlens": torch.tensor([0, 5])}, "cu_seqlens ends at 5"),
        ({"cu_seqlens": torch.tensor([0.0, 6.0])}, "cu_seqlens is .*float32"),
        ({"initial": torch.zeros(1, 2, 8, 8)}, "initial_state is .1, 2, 8, 8."),
    ],
)
def test_bad_input_is_refused_by_name(change, says):
    given = inputs([4, 2], 2, 8, False, "cpu", torch.float32) | change
    with pytest.raises(ValueError, match=says):
        lightning_attention(*(given.get(name) for name in ("q", "k", "v", "slopes", "cu_seqlens", "initial")))


def test_rows_without_borders_are_one_sequence():
    given = inputs([70], 2, 8, False, "cpu", torch.float32)
    q, k, v, slopes, cu_seqlens = (given[name] for name in ("q", "k", "v", "slopes", "cu_seqlens"))
    assert torch.equal(lightning_attention(q, k, v, slopes)[0], lightning_attention(q, k, v, slopes, cu_seqlens)[0])
