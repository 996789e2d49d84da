"""The layers that read prompts by row, in Triton's interpreter: what they compute. Their bits are for tests/gpu."""

from __future__ import annotations

import copy

import torch

from lightning_cispo.model.generation.decode import sampling_precision
from lightning_cispo.model.layers import Context
from lightning_cispo.model.network import MiniMax
from tests.generation.small import policy
from tests.kernels.interpreted import interpreted


def read(network: MiniMax, parts: list[list[torch.Tensor]]) -> tuple[torch.Tensor, Context]:
    """Logits after each sequence's last token, and what a continuation needs, of passes one after the other."""
    past = None
    for rows in parts:
        borders = torch.tensor([0, *map(len, rows)]).cumsum(0)
        output = network(torch.cat(rows), borders, past, return_context=True)
        past = output.context
    assert past is not None
    return network.lm_head(output.hidden_TX[borders[1:] - 1]), past


@interpreted
@torch.no_grad()
def test_prompts_come_to_what_the_ordinary_layers_make_of_them():
    from lightning_cispo.model.generation.by_row import make_by_row

    network = policy()
    network.compute_dtype = torch.float16
    by_row = copy.deepcopy(sampling_precision(network))
    make_by_row(by_row)
    assert {type(a) is type(b) for a, b in zip(network.modules(), by_row.modules(), strict=True)} == {True, False}
    generator = torch.Generator().manual_seed(0)
    prompts = [torch.randint(6, 64, (n,), generator=generator) for n in (70, 3, 90)]
    exact = copy.deepcopy(network).float()
    exact.compute_dtype = torch.float32
    wanted, left = read(exact, [prompts])
    scale = wanted.abs().max()
    for parts in ([prompts], [[x[:64] for x in (prompts[0], prompts[2])], [x[64:] for x in (prompts[0], prompts[2])]]):
        logits, context = read(by_row, parts)
        rows = [0, 1, 2] if len(parts) == 1 else [0, 2]
        assert (logits - wanted[rows]).abs().max() < 0.02 * scale
        for layer, state in left.states.items():
            assert (context.states[layer] - state[rows]).norm() < 0.01 * state[rows].norm()
