"""Generation timed on both sides: our engine, and transformers' `generate` on its MiniMax of the same shape."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
import yaml

from lightning_cispo.configs.schema import SOFTMAX, ModelConfig
from lightning_cispo.model.generation.engine import Engine
from lightning_cispo.model.generation.randomness import stream_key
from lightning_cispo.model.generation.requests import Request
from lightning_cispo.model.network import MiniMax
from lightning_cispo.model.sizes import count_parameters, kv_bytes, state_bytes

GROUPS = Path(__file__).parents[2] / "configs" / "model"


def shape(name: str, **changes: Any) -> ModelConfig:
    """A model group's shape; read without Hydra, which a machine for benchmarks may lack."""
    return ModelConfig(**(yaml.safe_load((GROUPS / f"{name}.yaml").read_text()) | changes))


def network(config: ModelConfig, device: torch.device) -> MiniMax:
    """Random weights; bf16 activations on a GPU."""
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    with device:
        made = MiniMax(config, dtype)
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            if "norm" not in name:
                parameter.normal_(std=0.02)
    return made


def peer(config: ModelConfig, device: torch.device, experts: str | None = None) -> Any:
    """transformers' network with random weights, in the same dtype.

    experts: its implementation of them. Left to its default, `generate` reads prompts with "grouped_mm" and decodes
    with "batched_mm", which copies a weight for every choice; "eager" is a loop that waits for the device.
    """
    from transformers import MiniMaxConfig, MiniMaxForCausalLM

    names = (
        "vocab_size hidden_size intermediate_size num_hidden_layers num_attention_heads num_key_value_heads head_dim "
        "num_local_experts num_experts_per_tok"
    )
    kinds = ["full_attention" if kind == SOFTMAX else "linear_attention" for kind in config.layer_types]
    fields = {name: getattr(config, name) for name in names.split()}
    with device:
        made = MiniMaxForCausalLM(MiniMaxConfig(**fields, layer_types=kinds, max_position_embeddings=1 << 17)).eval()
    made.generation_config.eos_token_id = None
    if experts:
        made.set_experts_implementation(experts)
    return made.to(device, torch.bfloat16 if device.type == "cuda" else torch.float32)


@dataclass(frozen=True)
class Timing:
    seconds: float
    tokens: int  # responses' tokens
    step_s: float = 0.0  # median decoding step with all rows running
    occupancy: float = 0.0  # slots in use until the queue was empty

    @property
    def rate(self) -> float:
        return self.tokens / self.seconds


def prompts(count: int, length: int, vocabulary: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, vocabulary, (count, length))


def time_engine(engine: Engine, rows: np.ndarray, lengths: Sequence[int]) -> Timing:
    """All responses at once, each from a prompt of its own and of exactly its length, at temperature 1."""
    synchronize(engine)
    started = time.perf_counter()
    for index, (row, length) in enumerate(zip(rows, lengths, strict=True)):
        engine.submit(Request(index, row, [stream_key(0, index)], length))
    steps, tokens, full, waited, before = [], 0, 0, 0, started
    while engine.has_work:
        running, queued = engine.running, len(engine.queue) > 0
        tokens += sum(len(completion.tokens_T) for completion in engine.step())
        now = time.perf_counter()
        if running == engine.running and engine.running == min(engine.slots, len(rows)):
            steps.append(now - before)
        if queued and running:
            waited, full = waited + 1, full + running
        before = now
    synchronize(engine)
    occupancy = full / waited / engine.slots if waited else 0.0
    return Timing(time.perf_counter() - started, tokens, median(steps) if steps else 0.0, occupancy)


def time_peer(model: Any, rows: np.ndarray, new: int) -> Timing:
    ids = torch.tensor(rows, device=model.device)
    started = time.perf_counter()
    with torch.inference_mode():
        out = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=new,
            min_new_tokens=new,
            do_sample=True,
            top_k=0,
            pad_token_id=0,
        )
    tokens = out[:, ids.shape[1] :].numel()
    if model.device.type == "cuda":
        torch.cuda.synchronize()
    return Timing(time.perf_counter() - started, tokens)


def synchronize(engine: Engine) -> None:
    if engine.lag:
        torch.cuda.synchronize()


def copy_bandwidth(device: torch.device) -> float:
    """Bytes a second that a copy reads and writes."""
    elements = 1 << (28 if device.type == "cuda" else 25)
    source, target = torch.zeros(elements, device=device), torch.empty(elements, device=device)
    best = float("inf")
    for _ in range(6):
        started = time.perf_counter()
        target.copy_(source)
        if device.type == "cuda":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - started)
    return 2 * source.nbytes / best


def floor_seconds(config: ModelConfig, batch: int, context: int, bandwidth: float, itemsize: int) -> float:
    """One decoding step if nothing but memory counted: weights read once, states read and written, keys read.

    Embeddings are looked up, not read through; the LM head is float32; at these batches every expert is in use.
    """
    outside = config.vocab_size * config.hidden_size
    weights = (count_parameters(config).total - 2 * outside) * itemsize + outside * 4
    rows = batch * (2 * state_bytes(config) + kv_bytes(config, context, itemsize))
    return (weights + rows) / bandwidth


def timed_steps(engine: Engine, count: int) -> list[float]:
    """Seconds of single steps; nothing may end meanwhile."""
    seconds = []
    for _ in range(count):
        started = time.perf_counter()
        engine.step()
        seconds.append(time.perf_counter() - started)
    return seconds
