import pytest
import torch

from lightning_cispo.kernels.lightning import lightning_decode, lightning_recurrent, lightning_reference

H, D = 3, 8


def rows(tokens, seed=0, dtype=torch.float64, **options):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(tokens, H, D, generator=generator, dtype=dtype, **options) for _ in range(3)]


SLOPES = torch.tensor([0.9, 0.05, 1e-4], dtype=torch.float64)


@pytest.mark.parametrize("lengths", [[1], [7], [64], [65], [200], [3, 130, 1, 64, 65], [5, 0, 9]])
@pytest.mark.parametrize("chunk_size", [8, 64])
def test_chunked_equals_recurrent(lengths, chunk_size):
    q, k, v = rows(sum(lengths))
    cu_seqlens = torch.tensor([0, *lengths]).cumsum(0)
    initial = torch.randn(len(lengths), H, D, D, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    out, final = lightning_reference(q, k, v, SLOPES, cu_seqlens, initial, True, chunk_size)
    for i, (start, end) in enumerate(zip(cu_seqlens[:-1], cu_seqlens[1:], strict=True)):
        expected, state = lightning_recurrent(q[start:end], k[start:end], v[start:end], SLOPES, initial[i])
        torch.testing.assert_close(out[start:end], expected, rtol=1e-11, atol=1e-11)
        torch.testing.assert_close(final[i], state, rtol=1e-11, atol=1e-11)


def test_gradients_by_finite_differences():
    q, k, v = rows(11, requires_grad=True)
    initial = torch.randn(2, H, D, D, dtype=torch.float64, requires_grad=True)
    cu_seqlens = torch.tensor([0, 10, 11])

    def run(q, k, v, initial):
        return lightning_reference(q, k, v, SLOPES, cu_seqlens, initial, True, chunk_size=4)

    assert torch.autograd.gradcheck(run, (q, k, v, initial))


def test_steep_slope_over_a_long_chunk_stays_finite():
    """exp(+s * i) would reach exp(234) here, and float32 ends at exp(88)."""
    q, k, v = (x.float().requires_grad_() for x in rows(512))
    out, _ = lightning_reference(q, k, v, SLOPES, torch.tensor([0, 512]), chunk_size=256)
    out.sum().backward()
    assert torch.isfinite(out).all() and all(torch.isfinite(x.grad).all() for x in (q, k, v))


def test_a_bf16_slope_would_forget_to_forget():
    """The reference takes the decay in float32: with a slope of 1e-4, bf16 rounds exp(-s) to exactly 1."""
    slope = torch.tensor([1e-4], dtype=torch.float64)
    assert torch.exp(-slope.bfloat16()) == 1.0
    one = torch.ones(1, 1, 4)
    state = torch.ones(1, 1, 4, 4)
    lightning_decode(one * 0, one * 0, one * 0, slope, state)
    assert (state < 1).all()


def test_decode_continues_a_prefill():
    q, k, v = rows(20, dtype=torch.float32)
    whole, _ = lightning_reference(q, k, v, SLOPES, torch.tensor([0, 20]))
    _, state = lightning_reference(q[:15], k[:15], v[:15], SLOPES, torch.tensor([0, 15]), output_final_state=True)
    for t in range(15, 20):
        out = lightning_decode(q[t : t + 1], k[t : t + 1], v[t : t + 1], SLOPES, state)
        torch.testing.assert_close(out[0], whole[t], rtol=1e-5, atol=1e-5)


def test_borders_must_end_at_the_last_token():
    q, k, v = rows(4)
    with pytest.raises(ValueError, match="ends at 3.*4 tokens"):
        lightning_reference(q, k, v, SLOPES, torch.tensor([0, 3]))
