"""Where bf16 would spoil the network, each trap as a test: decay, exponents, router, head, the lightning norm."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from lightning_cispo.configs.schema import ModelConfig
from lightning_cispo.kernels.lightning import lightning_recurrent, lightning_reference
from lightning_cispo.model.attention import LightningAttention, layer_slopes
from lightning_cispo.model.layers import Context, Packed, RMSNorm
from lightning_cispo.model.moe import MoE
from lightning_cispo.model.network import MiniMax
from tests.model.oracle import worst

CPU = torch.device("cpu")
RELEASED = ModelConfig(hidden_size=16, num_hidden_layers=80, num_attention_heads=64, num_key_value_heads=8, head_dim=2)


def test_bf16_decay_would_never_forget():
    """Why slopes are float32: some of the release's heads round to a decay of exactly 1."""
    slopes = torch.stack([layer_slopes(64, i, 80, CPU) for i in range(80) if (i + 1) % 8])
    assert (torch.exp(-slopes.bfloat16()) == 1).float().mean() > 0.05
    assert (torch.exp(-slopes.float()) < 1).all()


@pytest.mark.parametrize("layer", [0, 40, 78])
@pytest.mark.parametrize("bf16_weights", [False, True], ids=["master weights", "bf16 weights"])
def test_bf16_activations_forget_at_the_exact_rate(layer, bf16_weights):
    """Tokens that add nothing leave exp(-s) of the state each, in decode and in prefill, for the flattest heads too."""
    attention = LightningAttention(RELEASED, layer).requires_grad_(False)
    if bf16_weights:
        attention.bfloat16()
    attention.qkv_proj.weight.zero_()
    steps, x = 1000, torch.ones(1, 16, dtype=torch.bfloat16)
    state = torch.ones(1, 64, 2, 2)
    past = Context(torch.tensor([1]), states={layer: state.clone()})
    for _ in range(steps):
        attention.decode(x, state)
    future = Context(torch.tensor([steps + 1]))
    nothing = torch.empty(steps, 0)
    attention(x.expand(steps, -1), Packed(torch.tensor([0, steps]), nothing, nothing, past, future))
    wanted = torch.exp(-layer_slopes(64, layer, 80, CPU) * steps)[None, :, None, None].expand(1, 64, 2, 2)
    for found in (state, future.states[layer]):
        assert found.dtype == torch.float32
        torch.testing.assert_close(found.double(), wanted, rtol=2e-4, atol=1e-30)


@pytest.mark.parametrize("chunk_size", [64, 128, 256])
def test_exponents_never_overflow(chunk_size):
    """s * (C - 1) reaches 234 at the release's steepest slope, and exp overflows at 88: only differences are formed."""
    generator = torch.Generator().manual_seed(0)
    length = 2 * chunk_size
    q, k, v = (torch.randn(length, 2, 8, generator=generator, requires_grad=True) for _ in range(3))
    slopes = torch.tensor([0.917, 4.95e-5], dtype=torch.float64)
    if chunk_size > 96:
        assert torch.exp(slopes[0].float() * (chunk_size - 1)).isinf()
    out, state = lightning_reference(q, k, v, slopes, torch.tensor([0, length]), None, True, chunk_size)
    exact = [x.detach().double().requires_grad_() for x in (q, k, v)]
    wanted, wanted_state = lightning_recurrent(*exact, slopes)
    assert worst(out, wanted) < 1e-5 and worst(state[0], wanted_state) < 1e-5
    ours = torch.autograd.grad(out.square().sum(), (q, k, v))
    theirs = torch.autograd.grad(wanted.square().sum(), exact)
    for mine, other in zip(ours, theirs, strict=True):
        assert worst(mine, other) < 1e-5


def test_the_lightning_norm_has_an_eps_of_its_own():
    """1e-6, where every other norm has 1e-5: small outputs show which."""
    network = MiniMax(RELEASED)
    eps = {name: module.eps for name, module in network.named_modules() if hasattr(module, "eps")}
    assert {value for name, value in eps.items() if name.endswith("self_attn.norm")} == {1e-6}
    assert {value for name, value in eps.items() if not name.endswith("self_attn.norm")} == {1e-5}
    attention = network.model.layers[0].self_attn.double()
    attention.out_proj.weight = torch.nn.Parameter(torch.eye(16, 128, dtype=torch.float64))
    attention.output_gate.weight = torch.nn.Parameter(torch.zeros(128, 16, dtype=torch.float64))
    o = torch.full((1, 64, 2), 1e-3, dtype=torch.float64)  # mean square 1e-6
    out = attention._output(torch.zeros(1, 16, dtype=torch.float64), o)
    torch.testing.assert_close(out, torch.full_like(out, 0.5 * 1e-3 / (1e-6 + 1e-6) ** 0.5))


def test_norms_add_up_in_float32():
    """Of bf16 hidden states almost every element is the correctly rounded one; sums in bf16 miss most."""
    norm = RMSNorm(8192, 1e-5)
    x = torch.randn(20, 8192, generator=torch.Generator().manual_seed(0)).bfloat16()
    exact = x.double() * torch.rsqrt(x.double().square().mean(-1, keepdim=True) + 1e-5)
    assert (norm(x) == exact.bfloat16()).float().mean() > 0.999
    rounded = x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-5)
    assert (rounded == exact.bfloat16()).float().mean() < 0.9


def test_router_is_float32_at_both_ends():
    """bf16 hidden states meet float32 weights, and no logit is rounded; the choice is that of the float32 logits."""
    moe = MoE(ModelConfig(hidden_size=64, num_local_experts=32)).requires_grad_(False)
    generator = torch.Generator().manual_seed(0)
    for parameter in moe.parameters():
        parameter.normal_(std=0.02, generator=generator)
    x = torch.randn(200, 64, generator=generator).bfloat16()
    y, logits = moe(x)
    exact = x.double() @ moe.gate.weight.double().T
    assert y.dtype == torch.bfloat16 and logits.dtype == torch.float32
    assert worst(logits, exact) < 1e-6
    rounded = x.float() @ moe.gate.weight.bfloat16().float().T
    assert worst(rounded, exact) > 1e-3  # what bf16 weights would give


def test_head_is_float32_at_both_ends():
    """Log-probabilities of bf16 hidden states are the float64 ones to 1e-5, in training and in sampling."""
    config = ModelConfig(hidden_size=256, vocab_size=5000, num_hidden_layers=1)
    network = MiniMax(config, torch.bfloat16).initialize(0).requires_grad_(False)
    head = network.lm_head
    head.weight.mul_(20)  # logits as far apart as a trained model's
    generator = torch.Generator().manual_seed(0)
    hidden, targets = torch.randn(40, 256, generator=generator).bfloat16(), torch.arange(40)
    exact = (hidden.double() @ head.weight.double().T).log_softmax(-1)
    trained, _ = head(hidden, targets)
    sampled = head(hidden).log_softmax(-1)
    assert trained.dtype == sampled.dtype == torch.float32
    assert (trained - exact[torch.arange(40), targets]).abs().max() < 1e-5
    assert (sampled - exact).abs().max() < 2e-5
    rounded = F.linear(hidden, head.weight.bfloat16()).float().log_softmax(-1)
    assert (rounded - exact).abs().max() > 1e-2  # what a bf16 head would give
