"""Norms and activations with gradient against torch in float64: in the interpreter here, on the device in tests/gpu."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_cispo.kernels.experts.moe import top_experts
from lightning_cispo.kernels.norm.rms_norm import rms_norm_reference
from lightning_cispo.model.layers import rotate_reference
from tests.kernels.interpreted import interpreted

Op = Callable[..., tuple[Tensor, ...]]


def outcome(op: Op, given: list[Tensor], dtype: torch.dtype) -> list[Tensor]:
    """Outputs and the gradients of a random sum of them, in float64. A weight, [X], stays float32 at least."""
    leaves = [x.to(torch.promote_types(dtype, torch.float32) if x.dim() == 1 else dtype) for x in given]
    leaves = [x.detach().requires_grad_() for x in leaves]
    out = op(*leaves)
    generator = torch.Generator().manual_seed(2)
    grads = [torch.randn(x.shape, generator=generator).to(x.device, x.dtype) for x in out]
    return [x.detach().double() for x in (*out, *torch.autograd.grad(out, leaves, grads))]


def compare(ours: Op, reference: Op, given: list[Tensor], dtype: torch.dtype) -> None:
    """Errors at most twice the reference's in the same dtype, or those of the order of float32 sums; the same bits."""
    exact, plain = outcome(reference, given, torch.float64), outcome(reference, given, dtype)
    found, again = (outcome(ours, given, dtype) for _ in range(2))
    for index, (mine, torchs, right) in enumerate(zip(found, plain, exact, strict=True)):
        error, theirs = (float((x - right).norm() / right.norm().clamp(min=1e-12)) for x in (mine, torchs))
        assert error <= max(2 * theirs, 1e-6), (index, error, theirs, dtype, [tuple(x.shape) for x in given])
    assert all(torch.equal(a, b) for a, b in zip(found, again, strict=True))


def randoms(device: str, *shapes: tuple[int, ...]) -> list[Tensor]:
    generator = torch.Generator().manual_seed(sum(map(sum, shapes)))
    return [torch.randn(shape, generator=generator).to(device) for shape in shapes]


def check_norms(device: str, dtype: torch.dtype, shapes: list[tuple[int, int]]) -> None:
    from lightning_cispo.kernels.norm.launch import GatedRMSNorm, RMSNorm

    for rows, size in shapes:
        x, other, weight = randoms(device, (rows, size), (rows, size), (size,))
        for widened in (wide, lambda x: x):
            compare(
                lambda x, w, of=widened: (RMSNorm.apply(of(x), w, 1e-5, x.dtype),),
                lambda x, w, of=widened: rms_norm_reference(of(x), w, 1e-5, x.dtype)[1:],
                [x, weight],
                dtype,
            )
        compare(
            lambda o, gate, w: (GatedRMSNorm.apply(o, gate, w, 1e-6),),
            lambda o, gate, w: (torch.sigmoid(gate) * rms_norm_reference(o, w, 1e-6)[1],),
            [x, other, weight],
            dtype,
        )


def wide(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


def check_streams(device: str, dtype: torch.dtype, shapes: list[tuple[int, int]]) -> None:
    """The stream as wide as what layers read, and wider; all results read, or some."""
    from lightning_cispo.kernels.norm.launch import AddedStreamNorm, ScaledSum, StreamNorm

    for (rows, size), postnorm, widened in itertools.product(shapes, (True, False), (wide, lambda x: x)):
        x, other, weight = randoms(device, (rows, size), (rows, size), (size,))

        def plain(x: Tensor, w: Tensor, narrow: torch.dtype, postnorm=postnorm) -> tuple[Tensor, ...]:
            kept, normed = rms_norm_reference(x, w, 1e-5, narrow)
            return kept if postnorm else x * 1, kept, normed

        for some in (slice(0, 2), slice(1, 2)):
            compare(
                lambda x, w, of=widened, p=postnorm, s=some: StreamNorm.apply(of(x), w, 1e-5, x.dtype, p)[s],
                lambda x, w, of=widened, s=some, plain=plain: plain(of(x), w, x.dtype)[::2][s],
                [x, weight],
                dtype,
            )
        for scales, some in (((3.5, 1.0), slice(0, 3)), ((1.0, 0.7), slice(1, 2)), ((3.5, 1.0), slice(1, 3))):

            def ours(x, update, w, of=widened, scales=scales, p=postnorm, some=some) -> tuple[Tensor, ...]:
                return AddedStreamNorm.apply(of(x), update, scales, w, 1e-5, p)[some]

            def reference(x, update, w, of=widened, scales=scales, some=some, plain=plain) -> tuple[Tensor, ...]:
                return plain(added(of(x), update, scales), w, update.dtype)[some]

            compare(ours, reference, [x, other, weight], dtype)
        if dtype is not torch.float32:
            compare(
                lambda x, update: (ScaledSum.apply(wide(x), update, (3.5, 0.7)),),
                lambda x, update: (added(wide(x), update, (3.5, 0.7)),),
                [x, other],
                dtype,
            )


def added(x: Tensor, update: Tensor, scales: tuple[float, float]) -> Tensor:
    alpha, beta = scales
    return (x * alpha + (update.to(x.dtype) * beta)).to(x.dtype)


def check_silu(device: str, dtype: torch.dtype, shapes: list[tuple[int, int, int]]) -> None:
    from lightning_cispo.kernels.silu_triton import SiluQKV

    for tokens, heads, dim in shapes:

        def plain(x: Tensor, tokens=tokens, heads=heads, dim=dim) -> tuple[Tensor, ...]:
            return F.silu(x).view(tokens, heads, 3 * dim).split(dim, -1)

        compare(lambda x, h=heads: SiluQKV.apply(x, h), plain, randoms(device, (tokens, heads * 3 * dim)), dtype)


def check_router(device: str, dtype: torch.dtype, shapes: list[tuple[int, int, int]]) -> None:
    """Logits are float32, and so are a weight's values."""
    from lightning_cispo.kernels.experts.router_triton import RouterLogits

    for rows, width, experts in shapes:
        x, weight = randoms(device, (rows, width), (experts * width,))

        def ours(x: Tensor, w: Tensor, width=width) -> tuple[Tensor, ...]:
            return (RouterLogits.apply(x, w.view(-1, width)),)

        def plain(x: Tensor, w: Tensor, width=width) -> tuple[Tensor, ...]:
            return (x.to(w.dtype) @ w.view(-1, width).T,)

        compare(ours, plain, [x, weight], dtype)


def check_rotation(device: str, dtype: torch.dtype, shapes: list[tuple[int, int, int, int]]) -> None:
    from lightning_cispo.kernels.exact.rotary_triton import Rotate

    for tokens, heads, dim, half in shapes:
        x, angles = randoms(device, (tokens, heads, dim), (tokens, half))
        cos, sin = angles.cos(), angles.sin()

        def ours(x: Tensor, tables=(cos, sin)) -> tuple[Tensor, ...]:
            return (Rotate.apply(x, *tables),)

        def plain(x: Tensor, tables=(cos, sin)) -> tuple[Tensor, ...]:
            return (rotate_reference(x, *(table.to(torch.promote_types(x.dtype, table.dtype)) for table in tables)),)

        compare(ours, plain, [x], dtype)


def check_choice(device: str, shapes: list[tuple[int, int, int]]) -> None:
    """The experts torch chooses, their weights and the logits' gradient."""
    from lightning_cispo.kernels.experts.choice_triton import ChooseExperts

    for rows, experts, top_k in shapes:
        (logits,) = randoms(device, (rows, experts))

        def ours(x: Tensor, top_k=top_k) -> tuple[Tensor, ...]:
            return ChooseExperts.apply(x, top_k)[:1]

        def plain(x: Tensor, top_k=top_k) -> tuple[Tensor, ...]:
            return (top_experts(x.cpu().double(), top_k)[0].to(x),)

        compare(ours, plain, [logits], torch.float32)
        chosen = ChooseExperts.apply(logits, top_k)[1]
        assert torch.equal(chosen.cpu(), top_experts(logits.cpu().double(), top_k)[1])


@interpreted
@pytest.mark.parametrize(
    ("check", "sizes"),
    [
        (check_norms, [(1, 24), (13, 256)]),
        (check_streams, [(1, 24), (13, 256)]),
        (check_silu, [(1, 1, 16), (65, 3, 24)]),
        (check_router, [(1, 24, 5), (70, 130, 16)]),
        (check_rotation, [(1, 1, 16, 4), (33, 3, 24, 12)]),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_in_the_interpreter(check, sizes, dtype):
    check("cpu", dtype, sizes)


@interpreted
def test_choice_in_the_interpreter():
    check_choice("cpu", [(1, 1, 1), (70, 5, 3), (200, 32, 2)])
