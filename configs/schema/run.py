"""The whole of what a user can say, program by program."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Optional

from lightning_cispo.configs.schema.algorithm import AlgorithmConfig, OptimizerConfig, WarmStartConfig
from lightning_cispo.configs.schema.data import DataConfig, EvaluationConfig, RewardsConfig, SamplingConfig
from lightning_cispo.configs.schema.model import ModelConfig
from lightning_cispo.configs.schema.system import (
    CheckpointConfig,
    ClusterConfig,
    LearnerConfig,
    RolloutConfig,
    TrackingConfig,
)


@dataclass
class ModelSection(ModelConfig):
    from_checkpoint: bool = False  # take the shape from `checkpoint` instead


@dataclass
class RunConfig:
    """One schema for `cispo train`, `cispo sft` and `cispo evaluate`."""

    name: str = "run"  # of the run's folder and in W&B; -2, -3 ... is added where it is taken
    runs_dir: str = "runs"  # folder of the run folders
    seed: int = 0  # of all randomness: prompts, samples, random weights
    steps: int = 100  # RL steps: each samples, learns and publishes once
    checkpoint: Optional[str] = None  # weights to begin from, in Hugging Face's format; unset: random
    resume: Optional[str] = None  # a run folder to go on with
    dry_run: bool = False  # print the plan and start nothing
    model: ModelSection = field(default_factory=ModelSection)
    data: DataConfig = field(default_factory=DataConfig)
    algorithm: AlgorithmConfig = field(default_factory=AlgorithmConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    warm_start: WarmStartConfig = field(default_factory=WarmStartConfig)
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    rewards: RewardsConfig = field(default_factory=RewardsConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    learner: LearnerConfig = field(default_factory=LearnerConfig)
    rollout: RolloutConfig = field(default_factory=RolloutConfig)
    checkpoints: CheckpointConfig = field(default_factory=CheckpointConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
    cluster: ClusterConfig = field(default_factory=ClusterConfig)
