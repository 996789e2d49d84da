"""A model, a task and a draw that a rollout worker gets through in a second."""

from __future__ import annotations

from lightning_cispo.configs.schema import DataConfig, ModelConfig, PromptStyle, TaskConfig
from lightning_cispo.rl.worker import Draw

MODEL = ModelConfig(hidden_size=32, intermediate_size=32, num_hidden_layers=4, softmax_every=4, num_local_experts=4)
DATA = DataConfig(
    tasks=[TaskConfig("chain_sum", 1.0, {"min_digits": 1, "max_digits": 1})], prompt_style=PromptStyle.compact
)
DRAW = Draw(samples=4, temperature=1.0, max_tokens=24, seed=7)
