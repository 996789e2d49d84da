"""How DeepSpeed is set up: imported without compiling anything, its settings, its parameter groups."""

from __future__ import annotations

import logging
import os
from typing import Any

import torch

from lightning_cispo.configs.schema import OptimizerConfig, RunConfig
from lightning_cispo.model.layout import parameter_shapes
from lightning_cispo.model.network import MiniMax


def deepspeed_module() -> Any:
    """DeepSpeed, quiet, and without the shared-memory op that it would otherwise compile for gloo."""
    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    import deepspeed
    from deepspeed.ops import __compatible_ops__
    from deepspeed.utils import logger

    logger.setLevel(logging.WARNING)
    __compatible_ops__["deepspeed_shm_comm"] = False
    return deepspeed


def deepspeed_settings(config: RunConfig, optimizer: OptimizerConfig, size: int) -> dict[str, Any]:
    zero: dict[str, Any] = {
        "stage": config.learner.zero_stage,
        "contiguous_gradients": True,
        # Buckets are allocated whole: DeepSpeed's default of 5e8 elements is 2 GB, whatever the model.
        "reduce_bucket_size": min(size, 200_000_000),
        "stage3_prefetch_bucket_size": min(size, 50_000_000),
    }
    if config.learner.offload:
        zero["offload_optimizer"] = {"device": "cpu"}
    return {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,  # the boundary is set by hand: steps differ in micro-batches
        "gradient_clipping": optimizer.grad_clip,
        "zero_optimization": zero,
        # torch's AdamW, in one pass on either side: DeepSpeed's own would be compiled, the one for offloading too.
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": None,
    }


def decay_groups(network: MiniMax, weight_decay: float) -> list[dict[str, Any]]:
    """Weight decay on matrices only. Their shapes are the layout's: under ZeRO-3 a parameter shows none of its own."""
    shapes = parameter_shapes(network.config)
    matrices = [parameter for name, parameter in network.named_parameters() if len(shapes[name]) > 1]
    vectors = [parameter for name, parameter in network.named_parameters() if len(shapes[name]) <= 1]
    return [{"params": matrices, "weight_decay": weight_decay}, {"params": vectors, "weight_decay": 0.0}]
