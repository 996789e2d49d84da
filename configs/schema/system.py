"""Machines and bookkeeping: learner ranks, rollout workers, Ray, checkpoints, tracking."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Optional


class Precision(str, Enum):
    float32 = "float32"
    bfloat16 = "bfloat16"  # activations; parameters, router, lightning state and LM head stay float32


class TrackingMode(str, Enum):
    offline = "offline"
    online = "online"
    disabled = "disabled"


@dataclass
class LearnerConfig:
    world_size: int = 1  # ranks; 0: two, or one where there is a single GPU
    zero_stage: int = 1
    offload: bool = False  # optimizer state in host memory; needs zero_stage >= 1 and a GPU
    micro_batch_tokens: int = 16384  # packed tokens of one forward + backward on one rank
    activation_checkpointing: bool = False
    precision: Precision = Precision.float32
    exact: bool = False  # log-probabilities equal the sampler's to the bit; slower on both sides
    threads: int = 0  # CPU threads a rank; 0: the machine's cores / world_size
    max_skipped_updates: int = 5  # in a row, as loss or gradients were not finite; then the run ends


@dataclass
class RolloutConfig:
    workers: int = 2
    slots: int = 512  # sequences one worker decodes at once
    prefill_tokens: int = 16384  # prompt tokens read between two decoding steps; longer prompts are cut
    kv_tokens: int = 0  # tokens of softmax keys and values a worker keeps; 0: all slots at full length, or what fits
    recompute: bool = False  # responses under way when weights arrive: states and keys anew from these, not as they are
    threads: int = 0  # CPU threads a worker; 0: the machine's cores / workers
    max_restarts: int = 3  # times a dead worker is replaced before the run gives up
    max_unjudged: float = 0.5  # share of a step's responses that may lack a verdict as verifiers fail; beyond it ...
    wait_for_verifier_s: float = 600.0  # ... the run waits and tries again for so long, then saves and ends


@dataclass
class CheckpointConfig:
    every: int = 0  # steps; 0: by the clock, at the end and when stopped
    every_minutes: float = 30.0  # after the first step that ends so long after the last checkpoint; 0: by steps alone
    keep: int = 2  # newest ones that stay
    best: Optional[str] = "eval/pass@1"  # metric whose best checkpoint stays too; null: none
    best_is_lowest: bool = False  # of that metric; false: the highest is best


@dataclass
class TrackingConfig:
    mode: TrackingMode = TrackingMode.offline
    project: str = "lightning-cispo"
    entity: Optional[str] = None
    progress: bool = True  # progress bars
    traces: int = 128  # responses traced of a step, in whole groups; evaluations are traced whole; 0: none of either
    traces_mb: int = 2000  # most MiB of traces; beyond it the oldest steps' go


@dataclass
class ClusterConfig:
    address: Optional[str] = None  # of a running Ray cluster; unset: one is started here and stopped at the end
    object_store_mb: int = 256
