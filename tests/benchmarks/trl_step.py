"""The peer's side: TRL's GRPOTrainer with the CISPO loss on transformers' MiniMax of the same shape."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import MiniMaxConfig, MiniMaxForCausalLM, TrainerCallback
from trl import GRPOConfig, GRPOTrainer

from lightning_cispo.configs.schema import SOFTMAX, ModelConfig
from lightning_cispo.model.tokenizer import load_tokenizer
from tests.benchmarks import words
from tests.benchmarks.own_step import Size
from tests.benchmarks.timing import StepTime


class _Timed(GRPOTrainer):
    """Takes the time of generation with rewards."""

    generate_s = 0.0
    tokens = 0

    def _generate_and_score_completions(self, inputs: Any) -> Any:
        started = time.perf_counter()
        made = super()._generate_and_score_completions(inputs)
        self.generate_s = time.perf_counter() - started
        self.tokens = int(made["completion_mask"].sum())
        return made


class _Clock(TrainerCallback):
    """Takes the time of every step and calls `after` between steps; keeps the weights finite.

    MiniMax's gradients come out of transformers as NaN; with the weights NaN the next step could not sample.
    """

    def __init__(self, after: Callable[[], None]):
        self.after, self.steps = after, list[StepTime]()
        self.trainer: _Timed
        self.finite = True

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        self.started = time.perf_counter()

    def on_pre_optimizer_step(self, *_: Any, model: torch.nn.Module, **__: Any) -> None:
        started = time.perf_counter()
        for parameter in model.parameters():
            if parameter.grad is not None and not torch.isfinite(parameter.grad).all():
                self.finite = False
                parameter.grad.nan_to_num_(0.0, 0.0, 0.0)
        self.started += time.perf_counter() - started

    def on_step_end(self, *_: Any, **__: Any) -> None:
        seconds, trainer = time.perf_counter() - self.started, self.trainer
        self.steps.append(StepTime(trainer.generate_s, seconds - trainer.generate_s, trainer.tokens, trainer.tokens))
        self.after()


def network(config: ModelConfig) -> MiniMaxForCausalLM:
    """Random weights in the shape of ours."""
    return MiniMaxForCausalLM(
        MiniMaxConfig(
            vocab_size=config.vocab_size,
            hidden_size=config.hidden_size,
            intermediate_size=config.intermediate_size,
            num_hidden_layers=config.num_hidden_layers,
            num_attention_heads=config.num_attention_heads,
            num_key_value_heads=config.num_key_value_heads,
            head_dim=config.head_dim,
            num_local_experts=config.num_local_experts,
            num_experts_per_tok=config.num_experts_per_tok,
            layer_types=["full_attention" if t == SOFTMAX else "linear_attention" for t in config.layer_types],
            max_position_embeddings=4096,
            bos_token_id=None,
            eos_token_id=words.VOCABULARY,
            pad_token_id=None,
        )
    )


def trl_steps(
    folder: Path, model: ModelConfig, size: Size, threads: int, steps: int, after: Callable[[], None]
) -> tuple[list[StepTime], bool]:
    """`steps` steps, with `after` called after each; and whether all gradients were finite.

    `folder` holds what `own_step` wrote there. TRL's defaults, but for what would slow it down for nothing here:
    float32 as on our side, gradient checkpointing off.
    """
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    responses = size.prompts * size.group_size
    clock = _Clock(after)
    trainer = _Timed(
        model=network(model),
        reward_funcs=lambda completions, **_: [words.share_of_low_words(text) for text in completions],
        args=GRPOConfig(
            output_dir=str(folder / "trl"),
            loss_type="cispo",
            epsilon_high=5.0,
            learning_rate=1e-4,
            lr_scheduler_type="constant",
            max_steps=steps,
            per_device_train_batch_size=responses,
            num_generations=size.group_size,
            max_completion_length=size.tokens,
            generation_kwargs={"min_new_tokens": size.tokens},
            gradient_checkpointing=False,
            bf16=False,
            use_cpu=True,
            dataloader_pin_memory=False,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            logging_strategy="no",
        ),
        train_dataset=Dataset.from_dict({"prompt": words.prompts(steps * size.prompts)}),
        processing_class=load_tokenizer(str(folder / "tokenizer")),
        callbacks=[clock],
    )
    clock.trainer = trainer
    trainer.train()
    return clock.steps, clock.finite
