"""The matrix products of a decoding step against float64: in Triton's interpreter here, on the device in tests/gpu."""

from __future__ import annotations

import torch

from tests.kernels.interpreted import interpreted


def close(found: torch.Tensor, exact: torch.Tensor, tolerance: float) -> None:
    error = float((found.double().cpu() - exact).norm() / exact.norm())
    assert error < tolerance, error


def check_linear(device: str, dtype: torch.dtype, tolerance: float) -> None:
    """Up to three weights side by side, sizes that fill no tile, inputs in shares, with activations and without."""
    from lightning_cispo.kernels.decoding.linear_triton import Tiles, decode_linear

    torch.manual_seed(0)
    for rows, inputs, sizes, shares, gated in ((3, 40, (70, 20), 1, True), (19, 72, (24, 8, 8), 3, False)):
        x = torch.randn(rows, inputs).to(device, dtype)
        weights = tuple(torch.randn(size, inputs).to(device, dtype) for size in sizes)
        out = torch.full((shares, rows, sum(sizes)), float("nan"), device=device)
        decode_linear(x, weights, out if shares > 1 else out[0], gated, Tiles(inputs=32))
        exact = [x.double().cpu() @ weight.double().cpu().T for weight in weights]
        if gated:
            exact = [torch.nn.functional.silu(exact[0]), torch.sigmoid(exact[1])]
        close(out.sum(0), torch.cat(exact, 1), tolerance)
        if shares == 1:
            apart = torch.full((rows * sum(sizes),), float("nan"), device=device)
            decode_linear(x, weights, apart, gated, Tiles(inputs=32))
            parts = apart.split([rows * size for size in sizes])
            assert torch.equal(torch.cat([part.view(rows, -1) for part in parts], 1), out[0])


def check_experts(device: str, dtype: torch.dtype, tolerance: float) -> None:
    """An expert of many rows, one of none, rows that chose nobody; the same bits from other tiles and orders."""
    from lightning_cispo.kernels.decoding.experts_triton import Roster, decode_experts
    from lightning_cispo.kernels.decoding.linear_triton import Tiles

    torch.manual_seed(0)
    rows, experts, width, inner = 150, 4, 40, 24
    x, gate_up, down = (torch.randn(*n) for n in ((rows, width), (experts, 2 * inner, width), (experts, width, inner)))
    x, gate_up, down = (tensor.to(device, dtype) for tensor in (x, gate_up / 6, down / 5))
    choice = torch.stack([torch.zeros(rows), 1 + torch.arange(rows) % 2], 1).int()
    choice[7] = -1
    results = []
    for tiles in (Tiles(inputs=32), Tiles(rows=32, inputs=16)):
        hidden = torch.zeros(2 * rows, inner, dtype=dtype, device=device)
        out = torch.zeros(2 * rows, width, device=device)
        counts, (roster,) = Roster.empty(1, experts, rows, torch.device(device))
        for expert in range(experts):
            found = (choice.flatten() == expert).nonzero().squeeze(1)[torch.randperm(int((choice == expert).sum()))]
            counts[0, expert], roster.list_EB[expert, : len(found)] = len(found), found.int()
        decode_experts(x, 2, roster, gate_up, down, hidden, out, (tiles, tiles))
        results.append(out)
    share = torch.rand(rows, 2, device=device)
    shared = torch.zeros(2 * rows, width, dtype=dtype, device=device)
    decode_experts(x, 2, roster, gate_up, down, hidden, shared, (tiles, tiles), share)
    exact = torch.zeros(2 * rows, width, dtype=torch.float64)
    for number, expert in enumerate(choice.flatten().tolist()):
        if expert >= 0:
            gate, up = (gate_up[expert].double().cpu() @ x[number // 2].double().cpu()).chunk(2)
            exact[number] = down[expert].double().cpu() @ (torch.nn.functional.silu(gate) * up)
    close(shared, exact * share.double().cpu().view(-1, 1), 2 * tolerance)
    close(results[0], exact, tolerance)
    if device != "cpu":
        assert torch.equal(*results)


def check_head(device: str, dtype: torch.dtype) -> None:
    """Rows of 16 bits times float32 weights: nothing of the weights is lost."""
    from lightning_cispo.kernels.decoding.head_triton import decode_head
    from lightning_cispo.kernels.decoding.linear_triton import Tiles

    torch.manual_seed(0)
    x, weight = torch.randn(5, 72).to(device, dtype), torch.randn(90, 72, device=device)
    out = torch.full((5, 90), float("nan"), device=device)
    decode_head(x, weight, out, Tiles(outputs=64, inputs=32))
    close(out, x.double().cpu() @ weight.double().cpu().T, 1e-6)


@interpreted
def test_in_the_interpreter():
    check_linear("cpu", torch.float16, 1e-3)
    check_experts("cpu", torch.float32, 1e-6)
    check_head("cpu", torch.float16)
