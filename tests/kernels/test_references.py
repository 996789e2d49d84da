"""The other kernels' references against direct computations in float64."""

import pytest
import torch

from lightning_cispo.kernels.attention import varlen_attention
from lightning_cispo.kernels.experts.moe import grouped_experts, moe_experts
from lightning_cispo.kernels.head import logprobs as logprobs_kernel
from lightning_cispo.kernels.head.logprobs import head_logprobs


def naive_attention(q, k, v):
    """One sequence; the last query sees the last key."""
    k, v = (x.repeat_interleave(q.shape[1] // k.shape[1], dim=1) for x in (k, v))
    scores = torch.einsum("thd,uhd->htu", q, k) * q.shape[-1] ** -0.5
    hidden = torch.ones(len(q), len(k), dtype=torch.bool).triu(1 + len(k) - len(q))
    return torch.einsum("htu,uhd->thd", scores.masked_fill(hidden, float("-inf")).softmax(-1), v)


@pytest.mark.parametrize("context", [[0, 0, 0, 0], [4, 0, 31, 2]])
def test_varlen_attention(context):
    lengths = [1, 60, 7, 9]
    keys = [n + c for n, c in zip(lengths, context, strict=True)]
    q = torch.randn(sum(lengths), 4, 8, dtype=torch.float64)
    k, v = (torch.randn(sum(keys), 2, 8, dtype=torch.float64) for _ in range(2))
    cu_q, cu_k = torch.tensor([0, *lengths]).cumsum(0), torch.tensor([0, *keys]).cumsum(0)
    out = varlen_attention(q, k, v, cu_q, cu_k)
    for i in range(4):
        mine, theirs = slice(cu_q[i], cu_q[i + 1]), slice(cu_k[i], cu_k[i + 1])
        torch.testing.assert_close(out[mine], naive_attention(q[mine], k[theirs], v[theirs]), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"k": torch.zeros(5, 3, 8)}, "k is .*divides"),
        ({"v": torch.zeros(4, 2, 8)}, "v is .*alike"),
        ({"v": torch.zeros(5, 2, 8).double()}, "v is .*float64"),
        ({"cu": torch.tensor([0, 4])}, "cu_seqlens ends at 4"),
        ({"cu_k": torch.tensor([0, 2, 5])}, "cu_seqlens has 2 borders"),
        ({"cu_k": torch.tensor([0, 6])}, "cu_seqlens_k ends at 6"),
    ],
)
def test_varlen_attention_refuses_bad_input_by_name(change, says):
    given = {"q": torch.zeros(5, 4, 8), "k": torch.zeros(5, 2, 8), "v": torch.zeros(5, 2, 8)}
    given |= {"cu": torch.tensor([0, 5]), "cu_k": None} | change
    with pytest.raises(ValueError, match=says):
        varlen_attention(*given.values())


@pytest.mark.parametrize("choice", ["random", "one expert", "one token"])
def test_experts(choice):
    tokens = 1 if choice == "one token" else 13
    x, gate_up, down = torch.randn(tokens, 6), torch.randn(5, 8, 6), torch.randn(5, 6, 4)
    x, gate_up, down = (t.double().requires_grad_() for t in (x, gate_up, down))
    expert = torch.stack([torch.randperm(5)[:2] for _ in range(tokens)])
    if choice == "one expert":
        expert[:] = torch.tensor([3, 1])
    weight = torch.rand(tokens, 2, dtype=torch.float64)
    out = moe_experts(x, expert, weight, gate_up, down)
    expected = torch.zeros_like(out)
    for t in range(tokens):
        for j in range(2):
            gate, up = (gate_up[expert[t, j]] @ x[t]).chunk(2)
            expected[t] += weight[t, j] * (down[expert[t, j]] @ (torch.nn.functional.silu(gate) * up))
    torch.testing.assert_close(out, expected, rtol=1e-10, atol=1e-10)
    ours = torch.autograd.grad(out.square().sum(), (x, gate_up, down), retain_graph=True)
    theirs = torch.autograd.grad(expected.square().sum(), (x, gate_up, down))
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_head_logprobs(temperature, monkeypatch):
    monkeypatch.setattr(logprobs_kernel, "_LOGITS_AT_ONCE", 50)  # several slices of rows
    hidden, weight = torch.randn(9, 6).double().requires_grad_(), torch.randn(20, 6).double().requires_grad_()
    targets = torch.randint(0, 20, (9,))
    logprobs, entropy = head_logprobs(hidden, weight, targets, temperature)
    full = (hidden @ weight.T / temperature).log_softmax(-1)
    expected, expected_entropy = full.gather(1, targets[:, None]).squeeze(1), -(full.exp() * full).sum(-1)
    torch.testing.assert_close(logprobs, expected)
    torch.testing.assert_close(entropy, expected_entropy)
    mix = torch.randn(2, 9).double()
    ours = torch.autograd.grad((mix[0] * logprobs + mix[1] * entropy).sum(), (hidden, weight))
    theirs = torch.autograd.grad((mix[0] * expected + mix[1] * expected_entropy).sum(), (hidden, weight))
    torch.testing.assert_close(ours, theirs)


def test_head_logprobs_in_float32_are_accurate_at_real_logits():
    """1e-5 absolute against float64, logits of +-20 and a vocabulary of 20,000."""
    generator = torch.Generator().manual_seed(0)
    hidden, weight = torch.randn(64, 256, generator=generator), torch.randn(20_000, 256, generator=generator) / 4
    targets = torch.randint(0, 20_000, (64,), generator=generator)
    ours, _ = head_logprobs(hidden, weight, targets)
    exact, _ = head_logprobs(hidden.double(), weight.double(), targets)
    assert (ours.double() - exact).abs().max() < 1e-5


@pytest.mark.parametrize("choice", ["random", "one expert", "one token"])
def test_experts_without_gradient_are_the_same(choice):
    tokens = 1 if choice == "one token" else 37
    x, gate_up, down = torch.randn(tokens, 8), torch.randn(5, 24, 8), torch.randn(5, 8, 12)
    expert = torch.stack([torch.randperm(5)[:2] for _ in range(tokens)])
    if choice == "one expert":
        expert[:] = torch.tensor([3, 1])
    weight = torch.rand(tokens, 2)
    expected = moe_experts(x, expert, weight, gate_up, down)
    with torch.no_grad():
        torch.testing.assert_close(moe_experts(x, expert, weight, gate_up, down), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_grouped_experts_have_the_gradients_of_the_loop(dtype):
    """What a GPU trains with; one expert is idle."""
    expert = torch.stack([torch.randperm(4)[:2] for _ in range(50)])
    given = [torch.randn(50, 16, dtype=dtype), torch.rand(50, 2), torch.randn(5, 16, 16), torch.randn(5, 16, 8)]
    sides = []
    for experts in (moe_experts, grouped_experts):
        x, weight, gate_up, down = leaves = [tensor.clone().requires_grad_() for tensor in given]
        out = experts(x, expert, weight, gate_up, down)
        out.float().square().sum().backward()
        sides.append([out, *(leaf.grad for leaf in leaves)])
    for looped, grouped in zip(*sides, strict=True):
        assert (grouped - looped).float().norm() <= (1e-2 if dtype is torch.bfloat16 else 1e-6) * looped.float().norm()
    assert not sides[1][3][4].any()
