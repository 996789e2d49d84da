"""The native kernels with gradients against torch in float64. What torch hands out unwritten is NaN here."""

import shutil

import pytest
import torch

from lightning_cispo.kernels.experts.moe import moe_experts, top_experts
from lightning_cispo.kernels.head.logprobs import head_logprobs
from lightning_cispo.kernels.lightning.qkv import silu_lightning
from lightning_cispo.kernels.linear import linear
from lightning_cispo.kernels.native.train import matmul
from lightning_cispo.kernels.norm.rms_norm import added_stream_norm, rms_norm, stream_norm

pytestmark = pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")


@pytest.fixture(autouse=True, params=[1, 3])
def poisoned(request):
    threads = torch.get_num_threads()
    torch.manual_seed(0)
    torch.use_deterministic_algorithms(True)
    torch.set_num_threads(request.param)
    yield
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(False)


def compare(function, *arguments, rtol=3e-6):
    """Values and gradients of `function` in float32 and in float64, by the largest number of each."""
    results = []
    for dtype in (torch.float32, torch.float64):
        leaves = [x.to(dtype).requires_grad_() for x in arguments]
        made = [x for x in function(*leaves) if x is not None and x.is_floating_point()]
        scalar = sum((x * torch.linspace(-1, 1, x.numel()).to(dtype).view_as(x)).sum() for x in made)
        results.append([*made, *torch.autograd.grad(scalar, leaves, allow_unused=True)])
        assert made[0].dtype == dtype
    for ours, exact in zip(*results, strict=True):
        assert (ours is None) == (exact is None)
        if ours is not None:
            torch.testing.assert_close(
                ours.double(), exact, rtol=0, atol=rtol * max(1, float(exact.detach().abs().max()))
            )


@pytest.mark.parametrize(
    "m, n, k",
    [(1, 1, 1), (7, 33, 5), (300, 130, 65), (13, 32, 700), (5, 8, 0), (0, 3, 4), (3, 4130, 40), (3, 40, 4200)],
)
def test_matmul_of_any_strides(m, n, k):
    wide = torch.randn(2 * m + 1, k + 3), torch.randn(n, 3 * k + 1)
    a, b = wide[0][1::2, :k], wide[1].T[1::3]
    exact = a.double() @ b.double()
    close = {"rtol": 0, "atol": 1e-6 * (1 + k)}
    torch.testing.assert_close(matmul(a, b).double(), exact, **close)
    torch.testing.assert_close(matmul(b.T, a.T).double(), exact.T, **close)
    held = torch.ones(m, n)
    matmul(a, b, into=held, add=True)
    torch.testing.assert_close(held.double(), 1 + exact, **close)


@pytest.mark.parametrize("tokens, inputs, outputs", [(1, 5, 3), (77, 130, 40)])
def test_linear(tokens, inputs, outputs):
    compare(lambda x, w: [linear(x, w)], torch.randn(tokens, inputs), torch.randn(outputs, inputs))


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("tokens, size", [(1, 1), (2, 40), (150, 129)])
def test_norm(tokens, size, gated):
    x, gate = torch.randn(tokens, size), [4 * torch.randn(tokens, size)] * gated
    compare(lambda x, w, *gate: [rms_norm(x, w, 1e-5, *gate)], x, torch.randn(size), *gate)


@pytest.mark.parametrize("postnorm", [False, True])
@pytest.mark.parametrize("tokens, size", [(1, 1), (2, 40), (150, 129)])
def test_stream_norm(tokens, size, postnorm):
    x, update, weight = torch.randn(tokens, size), torch.randn(tokens, size), torch.randn(size)
    compare(lambda x, w: stream_norm(x, w, 1e-5, x.dtype, postnorm), x, weight)
    compare(lambda x, u, w: added_stream_norm(x, u, (2.0, 0.3), w, 1e-5, postnorm), x, update, weight)


@pytest.mark.parametrize("unread", [0, 1, 2])
def test_stream_norm_of_which_something_is_not_read(unread):
    def two_of_three(x, update, weight):
        made = list(added_stream_norm(x, update, (1.5, 1.0), weight, 1e-5, False))
        return made[:unread] + made[unread + 1 :]

    compare(two_of_three, torch.randn(5, 20), torch.randn(5, 20), torch.randn(20))


@pytest.mark.parametrize("heads, dim", [(1, 8), (3, 20), (2, 128)])
@pytest.mark.parametrize("lengths", [[1], [0, 64, 65, 3, 0, 200], [63, 128]])
def test_lightning(heads, dim, lengths):
    borders = torch.tensor([0, *lengths]).cumsum(0)
    slopes = torch.tensor([2.0, 0.3, 0.004], dtype=torch.float64)[:heads]
    qkv = torch.randn(sum(lengths), heads * 3 * dim)
    compare(lambda x: [silu_lightning(x, slopes, borders)[0]], qkv)


@torch.no_grad()
def test_lightning_goes_on_from_a_state():
    slopes, lengths = torch.tensor([1.5, 0.02], dtype=torch.float64), torch.tensor([70, 0, 130])
    borders = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])
    qkv, state = torch.randn(200, 2 * 3 * 24), torch.randn(3, 2, 24, 24)
    ours = silu_lightning(qkv, slopes, borders, state, True)
    exact = silu_lightning(qkv.double(), slopes, borders, state.double(), True)
    for one, other in zip(ours, exact, strict=True):
        torch.testing.assert_close(one.double(), other, rtol=0, atol=3e-6 * float(other.abs().max()))


@pytest.mark.parametrize(
    "tokens, hidden, inner, experts, top_k", [(1, 6, 4, 5, 2), (60, 33, 20, 3, 3), (9, 8, 50, 20, 1)]
)
def test_routing_and_experts(tokens, hidden, inner, experts, top_k):
    """With more experts than tokens some have none: their gradients are zeros."""
    weights = torch.randn(experts, 2 * inner, hidden), torch.randn(experts, hidden, inner)

    def routed(x, logits, gate_up, down):
        shares, chosen = top_experts(logits, top_k)
        return [moe_experts(x, chosen, shares, gate_up, down), shares]

    compare(routed, torch.randn(tokens, hidden), torch.randn(tokens, experts), *weights)


def test_routing_takes_the_first_of_equals():
    logits = torch.tensor([[1.0, 3.0, 3.0, 3.0], [0.0, 0.0, 0.0, 0.0]])
    shares, chosen = top_experts(logits, 2)
    assert chosen.tolist() == [[1, 2], [0, 1]] and shares.eq(0.5).all()


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_head_logprobs(temperature):
    targets = torch.randint(0, 45, (21,))
    compare(lambda h, w: head_logprobs(h, w, targets, temperature), torch.randn(21, 40), torch.randn(45, 40))
