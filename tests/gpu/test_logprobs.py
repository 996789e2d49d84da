"""The LM head's kernels on the device."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from lightning_cispo.kernels.head import launch as logprobs_triton
from lightning_cispo.kernels.head.logprobs import head_logprobs
from lightning_cispo.model.network import MiniMax
from tests.kernels.test_logprobs_triton import check
from tests.model.small import CONFIG

if not torch.cuda.is_available():
    pytest.skip("needs a GPU", allow_module_level=True)

B, H, F = torch.bfloat16, torch.float16, torch.float32


SHORT, MIXED = ((5, 8, 11), 0.7, True), ((517, 72, 3001), 1.3, True)
WIDE, LONG = ((300, 2048, 26_001), 1.0, False), ((8192, 256, 65_536), 1.0, False)  # LONG takes two chunks or more


@pytest.mark.parametrize(
    ("dtypes", "case"),
    [
        ((B, B), SHORT),
        ((H, H), MIXED),
        ((H, F), MIXED),
        *((pair, x) for pair in ((B, B), (B, F)) for x in (WIDE, LONG)),
    ],
)
def test_against_float64(dtypes, case):
    shape, temperature, entropy = case
    check("cuda", *shape, dtypes, temperature, entropy)


def test_memory_is_of_chunks_and_nothing_waits_for_the_device():
    hidden = torch.randn(4096, 512, device="cuda", dtype=B, requires_grad=True)
    weight = (torch.randn(100_000, 512, device="cuda") / 8).to(B).requires_grad_()
    targets = torch.randint(0, 100_000, (4096,), device="cuda")

    def step() -> None:
        hidden.grad = weight.grad = None
        head_logprobs(hidden, weight, targets)[0].sum().backward()

    step()
    hidden.grad = weight.grad = None
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    try:
        torch.cuda.set_sync_debug_mode("error")
        step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    gradients, chunk = weight.nbytes + 3 * hidden.nbytes, 4096 * 100_096 * 2
    assert torch.cuda.max_memory_allocated() - before < gradients + 1.2 * chunk


def test_the_tied_float32_embedding_gets_both_gradients():
    table = torch.nn.Parameter(torch.randn(1000, 64, device="cuda") / 8)
    tokens = torch.randint(0, 1000, (200,), device="cuda")
    sides = []
    for dtype in (B, torch.float64):
        wide = table.detach().to(torch.float64 if dtype is torch.float64 else F).requires_grad_()
        logprobs, _ = head_logprobs(wide[tokens].to(dtype), wide, tokens.roll(1))
        logprobs.sum().backward()
        sides.append(wide.grad.double())
    assert (sides[0] - sides[1]).norm() < 5e-3 * sides[1].norm()


def test_the_network_goes_through_it(monkeypatch):
    """As the learner's has it: activations in bf16, a tied table in float32."""
    calls = []
    kernel = logprobs_triton.head_logprobs_triton
    monkeypatch.setattr(logprobs_triton, "head_logprobs_triton", lambda *given: calls.append(given) or kernel(*given))
    network = MiniMax(replace(CONFIG, tie_word_embeddings=True, vocab_size=1000), B).initialize(0).cuda()
    tokens, cu_seqlens = torch.randint(0, 1000, (50,), device="cuda"), torch.tensor([0, 20, 50], device="cuda")
    logprobs, _, output = network.logprobs(tokens, cu_seqlens, 0.8)
    logits = output.hidden_TX.double() @ network.lm_head.weight.double().T / 0.8
    exact = logits.log_softmax(-1)[:-1].gather(1, tokens[1:, None]).squeeze(1)
    assert len(calls) == 1 and calls[0][0].dtype == B and calls[0][1].dtype == F
    assert (logprobs[1:20] - exact[:19]).abs().max() < 1e-5
    logprobs.sum().backward()
    assert network.model.embed_tokens.weight.grad.isfinite().all()
