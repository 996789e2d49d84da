"""The optimizer step, applied only where the loss and all gradients are finite: alike at every ZeRO stage."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from lightning_cispo.rl.packing import MicroBatch

_Loss = Callable[[MicroBatch], Tensor]


def backward(engine: Any, loss: Tensor, ranks: int, last: bool) -> None:
    """Add one micro-batch's gradients; `last`: of the step.

    A loss that is not finite makes every gradient NaN, on the device and on all ranks: without a message between them
    they agree in `apply` that the step can't be taken.
    """
    engine.set_gradient_accumulation_boundary(last)
    # DeepSpeed averages over ranks; the scales already make the sum over ranks right.
    engine.backward(loss * torch.where(loss.detach().isfinite(), float(ranks), math.nan))


def apply(engine: Any) -> tuple[float, bool]:
    """Take the step unless a gradient is not finite, and forget the gradients either way.

    Returns the gradients' norm before clipping and whether the step was taken.
    """
    if engine.zero_optimization_stage() > 0:
        engine.step()  # skips by itself
        return float(engine.get_global_grad_norm()), engine.was_step_applied()
    grads = [parameter.grad for parameter in engine.module.parameters() if parameter.grad is not None]
    norm = float(torch.nn.utils.get_total_norm(grads))
    if math.isfinite(norm):
        engine.step()
    else:
        engine.zero_grad()
    return norm, math.isfinite(norm)


def offenders(engine: Any, batches: Sequence[MicroBatch], losses: Sequence[Tensor], loss_of: _Loss) -> list[int]:
    """The micro-batches of this rank that spoiled a step which was not taken. All ranks call it together.

    Those whose loss is not finite; where no rank has any, those whose gradients are not, found by computing each anew.
    """
    finite_B = torch.stack(list(losses)).isfinite()
    everywhere = finite_B.all().int()
    torch.distributed.all_reduce(everywhere, torch.distributed.ReduceOp.MIN)
    if everywhere:
        finite_B = _finite_gradients(engine, batches, loss_of)
    return [index for index, finite in enumerate(finite_B.tolist()) if not finite]


def _finite_gradients(engine: Any, batches: Sequence[MicroBatch], loss_of: _Loss) -> Tensor:
    """Whether each micro-batch's gradients are finite, bool [B]. Leaves weights and optimizer as they are."""
    finite_B = torch.ones(len(batches), dtype=torch.bool, device=engine.device)
    ranks = torch.distributed.get_world_size()
    for index, batch in enumerate(batches):

        def note(grad: Tensor, index: int = index) -> None:
            finite_B[index] &= grad.isfinite().all()

        hooks = [parameter.register_hook(note) for parameter in engine.module.parameters()]
        try:
            backward(engine, loss_of(batch), ranks, last=False)
        finally:
            for hook in hooks:
                hook.remove()
    backward(engine, loss_of(batches[0]) * math.nan, ranks, last=True)  # so that nothing of this is applied
    apply(engine)
    return finite_B
