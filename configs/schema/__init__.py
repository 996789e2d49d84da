"""Typed schemas of every key a user can set. Imports nothing but the standard library."""

from lightning_cispo.configs.schema.algorithm import (
    AlgorithmConfig,
    Anchor,
    Contrast,
    Normalization,
    OptimizerConfig,
    Schedule,
    WarmStartConfig,
)
from lightning_cispo.configs.schema.data import (
    MOST_STOP_BYTES,
    ChatTemplate,
    CodeConfig,
    CurriculumConfig,
    DataConfig,
    EvaluationConfig,
    Isolation,
    JudgeConfig,
    PromptStyle,
    RewardsConfig,
    SamplingConfig,
    TaskConfig,
    stop_bytes,
)
from lightning_cispo.configs.schema.model import LIGHTNING, SOFTMAX, ModelConfig
from lightning_cispo.configs.schema.run import ModelSection, RunConfig
from lightning_cispo.configs.schema.serving import ServeConfig
from lightning_cispo.configs.schema.system import (
    CheckpointConfig,
    ClusterConfig,
    LearnerConfig,
    Precision,
    RolloutConfig,
    TrackingConfig,
    TrackingMode,
)

__all__ = [
    "LIGHTNING",
    "MOST_STOP_BYTES",
    "SOFTMAX",
    "AlgorithmConfig",
    "Anchor",
    "ChatTemplate",
    "CheckpointConfig",
    "ClusterConfig",
    "CodeConfig",
    "Contrast",
    "CurriculumConfig",
    "DataConfig",
    "EvaluationConfig",
    "Isolation",
    "JudgeConfig",
    "LearnerConfig",
    "ModelConfig",
    "ModelSection",
    "Normalization",
    "OptimizerConfig",
    "Precision",
    "PromptStyle",
    "RewardsConfig",
    "RolloutConfig",
    "RunConfig",
    "SamplingConfig",
    "Schedule",
    "ServeConfig",
    "TaskConfig",
    "TrackingConfig",
    "TrackingMode",
    "WarmStartConfig",
    "stop_bytes",
]
