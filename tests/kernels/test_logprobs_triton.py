"""The LM head's kernels against float64: in Triton's interpreter here, on the device in tests/gpu."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from lightning_cispo.kernels.head.logprobs import SlicedLogprobs, head_logprobs
from tests.kernels.interpreted import interpreted

Sides = Callable[[Tensor, Tensor, Tensor, float], tuple[Tensor, Tensor]]
NAMES = ("logprobs", "entropy", "gradient of hidden", "gradient of weight")


def inputs(tokens: int, width: int, vocabulary: int, device: str) -> dict[str, Tensor]:
    """Logits of standard deviation 3; the last targets are those the model is sure of; some tokens have no weight."""
    generator = torch.Generator().manual_seed(tokens + vocabulary)
    hidden = torch.randn(tokens, width, generator=generator)
    weight = torch.randn(vocabulary, width, generator=generator) * 3 / width**0.5
    targets = torch.randint(0, vocabulary, (tokens,), generator=generator)
    targets[0], targets[-1] = vocabulary - 1, 0
    sure = len(targets) // 4
    known = hidden[tokens - sure :]
    weight[targets[tokens - sure :]] = known * 16 / known.square().sum(-1, keepdim=True)
    grads = torch.randn(2, tokens, generator=generator) / tokens
    grads[:, 1::5] = 0
    return {
        name: x.to(device)
        for name, x in {"hidden": hidden, "weight": weight, "targets": targets, "grads": grads}.items()
    }


def outcome(
    given: dict[str, Tensor], side: Sides, dtypes: tuple[torch.dtype, torch.dtype], temperature: float, entropy: bool
) -> list[Tensor]:
    """Log-probabilities, entropies and the gradients with respect to hidden states and weight, in float64."""
    hidden, weight = (
        given[name].detach().to(dtype).requires_grad_() for name, dtype in zip(("hidden", "weight"), dtypes)
    )
    found = side(hidden, weight, given["targets"], temperature)
    count = 1 + entropy
    torch.autograd.backward(found[:count], [grad.to(x.dtype) for grad, x in zip(given["grads"][:count], found)])
    return [x.detach().double() for x in (*found, hidden.grad, weight.grad)]


def plain(hidden: Tensor, weight: Tensor, targets: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    return SlicedLogprobs.apply(hidden, weight, targets, temperature)


def check(
    device: str,
    tokens: int,
    width: int,
    vocabulary: int,
    dtypes: tuple[torch.dtype, torch.dtype],
    temperature: float = 1.0,
    entropy: bool = False,
) -> None:
    """Errors at most twice the torch reference's for the same inputs, or `floor`; the same bits each time."""
    from lightning_cispo.kernels.head.launch import head_logprobs_triton

    given = inputs(tokens, width, vocabulary, device)
    rounded = given | {"hidden": given["hidden"].to(dtypes[0]), "weight": given["weight"].to(dtypes[1])}
    exact = outcome(rounded, plain, (torch.float64, torch.float64), temperature, entropy)
    found, again = (outcome(rounded, head_logprobs_triton, dtypes, temperature, entropy) for _ in range(2))
    theirs = outcome(rounded, plain, dtypes, temperature, entropy)
    for index, name in enumerate(NAMES):
        ours, reference = ((x[index] - exact[index]) for x in (found, theirs))
        where = (name, tokens, width, vocabulary, dtypes, temperature, entropy)
        if index == 0:
            assert ours.abs().max() <= 1e-5, (ours.abs().max(), reference.abs().max(), *where)
        elif index == 1:
            assert ours.abs().max() <= max(1e-5, 2 * reference.abs().max()), (ours.abs().max(), *where)
        else:
            # Beside a float32 weight the logits' gradients have 16 bits all the same, as those of all activations.
            floor = 1e-3 if dtypes[0] != dtypes[1] else 1e-6
            relative = [float(x.norm() / exact[index].norm()) for x in (ours, reference)]
            assert relative[0] <= max(2 * relative[1], floor), (*relative, *where)
    assert all(torch.equal(a, b) for a, b in zip(found, again, strict=True))


HALF, FULL = torch.float16, torch.float32
CASES = [
    (37, 72, 700, (HALF, HALF), 0.7, False),
    (150, 40, 333, (HALF, FULL), 1.0, False),
    (130, 136, 1025, (HALF, FULL), 1.3, True),
    (3, 8, 11, (HALF, HALF), 1.0, True),
]


@interpreted
@pytest.mark.parametrize("case", CASES)
def test_in_the_interpreter(case, monkeypatch):
    from lightning_cispo.kernels.head import launch

    empty = torch.empty
    monkeypatch.setattr(torch, "empty", lambda *size, **options: empty(*size, **options).fill_(float("nan")))
    monkeypatch.setattr(launch, "_LOGITS_AT_ONCE", 1)  # chunks of one tile
    check("cpu", *case)


@interpreted
def test_a_target_outside_the_vocabulary_gives_nan():
    from lightning_cispo.kernels.head.launch import head_logprobs_triton

    logprobs, _ = head_logprobs_triton(torch.ones(2, 8).half(), torch.ones(5, 8).half(), torch.tensor([5, 4]), 1.0)
    assert logprobs.isnan().tolist() == [True, False]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"hidden": torch.zeros(3, 8, 1)}, "hidden is"),
        ({"weight": torch.zeros(5, 8, dtype=torch.int64)}, "weight is .*int64"),
        ({"weight": torch.zeros(5, 16)}, "weight has rows of 16"),
        ({"targets": torch.zeros(3, dtype=torch.int32)}, "targets is .*int32"),
        ({"targets": torch.zeros(4, dtype=torch.int64)}, "targets is .*4"),
        ({"targets": torch.zeros(3, dtype=torch.int64, device="meta")}, "targets is on meta"),
        ({"temperature": 0.0}, "temperature is 0.0"),
        ({"token_weights": torch.ones(2)}, "token_weights is"),
    ],
)
def test_bad_input_is_refused_by_name(change, says):
    given = {
        "hidden": torch.zeros(3, 8),
        "weight": torch.zeros(5, 8),
        "targets": torch.zeros(3, dtype=torch.int64),
        "temperature": 1.0,
        "token_weights": None,
    } | change
    with pytest.raises(ValueError, match=says):
        head_logprobs(*given.values())


def test_gradients_by_finite_differences():
    generator = torch.Generator().manual_seed(0)
    hidden, weight = torch.randn(2, 7, 5, dtype=torch.float64, generator=generator)
    weights = torch.tensor([1.0, 0.0, 2.0, -0.5, 1.0, 1.0, 0.0], dtype=torch.float64)
    targets = torch.tensor([0, 6, 3, 2, 2, 5, 1])
    leaves = hidden.requires_grad_(), weight.requires_grad_()
    assert torch.autograd.gradcheck(lambda h, w: head_logprobs(h, w, targets, 0.7, weights), leaves)


def test_a_token_without_weight_counts_for_nothing():
    given = inputs(6, 8, 20, "cpu")
    weights = torch.tensor([1.0, 0.0, 3.0, 1.0, 1.0, 1.0])
    hidden = given["hidden"].requires_grad_()
    weighted, _ = head_logprobs(hidden, given["weight"], given["targets"], token_weights_T=weights)
    alone, _ = head_logprobs(hidden, given["weight"], given["targets"])
    assert torch.equal(weighted, alone * weights)
    weighted.sum().backward()
    assert not hidden.grad[1].any() and hidden.grad[2].any()
