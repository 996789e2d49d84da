"""Routing at its extremes: no expert, one expert, no token, one token; nothing is dropped."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from lightning_cispo.configs.schema import ModelConfig
from lightning_cispo.model.moe import MoE
from tests.model.oracle import worst

CONFIG = ModelConfig(hidden_size=16, intermediate_size=12, num_local_experts=8, num_experts_per_tok=2)


def experts_one_by_one(moe: MoE, x: torch.Tensor) -> torch.Tensor:
    """The definition: top-k of the softmax, renormalised; w2(silu(w1 x) * w3 x) a token and expert at a time."""
    probs = F.softmax(x @ moe.gate.weight.T, dim=-1)
    rows = []
    for t in range(len(x)):
        weights, chosen = probs[t].topk(2)
        update = torch.zeros_like(x[t])
        for weight, e in zip(weights / weights.sum(), chosen.tolist(), strict=True):
            w1, w3 = moe.experts.gate_up_proj[e].chunk(2)
            update = update + weight * (moe.experts.down_proj[e] @ (F.silu(w1 @ x[t]) * (w3 @ x[t])))
        rows.append(update)
    return torch.stack(rows) if rows else x * 0


@pytest.mark.parametrize("case", ["spread", "all tokens to two experts", "one token", "no token"])
def test_against_the_definition_with_gradients(case):
    generator = torch.Generator().manual_seed(0)
    moe = MoE(CONFIG).double()
    with torch.no_grad():
        for parameter in moe.parameters():
            parameter.normal_(generator=generator)
        if case == "all tokens to two experts":
            moe.gate.weight.zero_()
            moe.gate.weight[[3, 6], 0] = torch.tensor([5.0, 4.0], dtype=torch.float64)
    count = {"one token": 1, "no token": 0}.get(case, 40)
    x = torch.randn(count, 16, dtype=torch.float64, generator=generator)
    x[:, 0] = x[:, 0].abs()  # what the gate of the two experts reads
    x.requires_grad_()
    y, logits = moe(x)
    used = set(logits.topk(2).indices.flatten().tolist())
    assert len(used) == {"spread": 8, "no token": 0}.get(case, 2)
    variables = (x, *moe.parameters())
    ours = torch.autograd.grad(y.square().sum(), variables)
    wanted = experts_one_by_one(moe, x)
    torch.testing.assert_close(y, wanted, rtol=1e-11, atol=1e-12)
    if count:
        for mine, theirs in zip(ours, torch.autograd.grad(wanted.square().sum(), variables), strict=True):
            assert worst(mine, theirs) < 1e-10
    for gradient in ours[2:]:  # experts nobody chose: zero, not absent, as ZeRO counts on one of every rank
        idle = [e for e in range(8) if e not in used]
        assert not gradient[idle].any()
