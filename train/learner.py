"""One learner rank: the network under DeepSpeed, an optimizer step over packed micro-batches."""

from __future__ import annotations

import os
import socket
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lightning_cispo.configs.schema import AlgorithmConfig, ModelConfig, OptimizerConfig, Precision, RunConfig
from lightning_cispo.model import checkpoint
from lightning_cispo.model.intact import finite
from lightning_cispo.model.network import MiniMax
from lightning_cispo.model.routing import Routing, changed_choices, replayed
from lightning_cispo.model.sizes import count_parameters
from lightning_cispo.model.tokenizer import load_tokenizer
from lightning_cispo.model.transfer import on_device
from lightning_cispo.rl.objectives.cispo import TokenLoss, cispo
from lightning_cispo.rl.objectives.supervised import supervised
from lightning_cispo.rl.packing import MicroBatch
from lightning_cispo.rl.statistics import UpdateSums, update_sums
from lightning_cispo.train.deepspeed_setup import decay_groups, deepspeed_module, deepspeed_settings
from lightning_cispo.train.optimizer_state import restore_optimizer, save_optimizer
from lightning_cispo.train.partitions import build_network, whole_parameters
from lightning_cispo.train.step import apply, backward, offenders
from lightning_cispo.train.weights import in_parts


@dataclass(frozen=True)
class UpdateReport:
    """What one rank saw in one optimizer step."""

    sums: UpdateSums
    expert_counts_E: np.ndarray  # float64: times each expert was chosen, over layers and tokens
    router_tokens: int  # layers * tokens
    grad_norm: float  # of the whole step, before clipping
    applied: bool  # False where the loss or a gradient, of any rank, is not finite
    offenders: list[int]  # this rank's micro-batches that were the reason


class Policy(nn.Module):
    """The network with log-probabilities as its forward, so that DeepSpeed's hooks see every parameter's use."""

    def __init__(self, network: MiniMax):
        super().__init__()
        self.network = network

    def forward(
        self, tokens_T: Tensor, cu_seqlens: Tensor, temperature: float, routing_TLK: Tensor | None
    ) -> tuple[Tensor, Tensor, list[Tensor]]:
        routing = None if routing_TLK is None else Routing(routing_TLK)
        logprobs_T, entropy_T, output = self.network.logprobs(tokens_T, cu_seqlens, temperature, routing)
        return logprobs_T, entropy_T, output.router_logits


class Learner:
    """Hosted in a Ray actor by `train.learner_group`. Methods are collective: all ranks call them together."""

    def __init__(self, config: RunConfig, model: ModelConfig, rank: int):
        self.config, self.model, self.rank = config, model, rank
        self.world_size = config.learner.world_size
        threads = config.learner.threads or max(1, len(os.sched_getaffinity(0)) // self.world_size)
        torch.set_num_threads(threads)
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.engine: Any = None

    def address(self) -> tuple[str, int]:
        """Host and a free port, for rank 0 to be met at."""
        with socket.socket() as listener:
            listener.bind(("", 0))
            return _host_address(), listener.getsockname()[1]

    def connect(self, host: str, port: int) -> int:
        """Join the process group. Returns the process id."""
        os.environ.update(
            MASTER_ADDR=host,
            MASTER_PORT=str(port),
            RANK=str(self.rank),
            WORLD_SIZE=str(self.world_size),
            LOCAL_RANK="0",
        )
        deepspeed = deepspeed_module()
        deepspeed.init_distributed(
            "nccl" if self.device.type == "cuda" else "gloo", auto_mpi_discovery=False, verbose=False
        )
        return os.getpid()

    def start(self, weights: str | None, optimizer: OptimizerConfig) -> int:
        """A fresh optimizer over weights from a Hugging Face folder, or random ones. Returns the parameter count."""
        dtype = torch.bfloat16 if self.config.learner.precision is Precision.bfloat16 else torch.float32
        size = count_parameters(self.model).total
        settings = deepspeed_settings(self.config, optimizer, size)
        deepspeed = deepspeed_module()
        if self.engine is not None:
            self.engine.destroy()
            self.engine = None
        network = build_network(self.model, dtype, weights, self.config.seed, settings, self.config.learner.exact)
        network.checkpoint_activations = self.config.learner.activation_checkpointing
        adamw = torch.optim.AdamW(
            decay_groups(network, optimizer.weight_decay),
            lr=optimizer.lr,
            betas=(optimizer.beta1, optimizer.beta2),
            eps=optimizer.eps,
            fused=True,
        )
        self.engine = deepspeed.initialize(
            model=Policy(network.to(self.device)), optimizer=adamw, config=settings, dist_init_required=False
        )[0]
        return size

    def update(
        self,
        batches: list[MicroBatch],
        lr: float,
        algorithm: AlgorithmConfig | None,
        load_E: np.ndarray | None,
        tokens: int,
    ) -> UpdateReport:
        """One optimizer step over this rank's micro-batches, not applied where it would not be finite.

        algorithm: CISPO's numbers, or None for cross-entropy. load_E: choices per token of each expert in the previous
        update, for the balancing loss; tokens: packed tokens of the whole step, all ranks.
        """
        engine = self.engine
        engine.train()
        for group in engine.optimizer.param_groups:
            group["lr"] = lr
        objective = partial(self._loss, algorithm=algorithm, load_E=load_E, tokens=tokens)
        losses, found = [], []
        counts_E = torch.zeros(self.model.num_local_experts, dtype=torch.int64, device=self.device)
        for index, batch in enumerate(batches):
            loss, sums, chosen_E = objective(batch)
            backward(engine, loss, self.world_size, last=index == len(batches) - 1)
            losses.append(loss.detach())
            found.append(sums)
            if batch.samples:
                counts_E += chosen_E
        norm, applied = apply(engine)
        offending = [] if applied else offenders(engine, batches, losses, lambda batch: objective(batch)[0])
        router_tokens = sum(len(batch.tokens_T) for batch in batches if batch.samples) * self.model.num_hidden_layers
        counts = counts_E.cpu().numpy().astype(np.float64)
        return UpdateReport(UpdateSums.of(found), counts, router_tokens, norm, applied, offending)

    def _loss(
        self, batch: MicroBatch, algorithm: AlgorithmConfig | None, load_E: np.ndarray | None, tokens: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The loss, what `update_sums` says of it, and each expert's choices. On a GPU nothing here waits for the
        device, so that the host is ahead of it from one micro-batch to the next."""
        routing_TLK = self._routing(batch)
        logprobs_T, entropy_T, router_logits = self._forward(batch, routing_TLK)
        scales_T, advantages_T, anchor_T, sampler_T = (
            on_device(array, self.device, None)
            for array in (batch.scales_T, batch.advantages_T, batch.anchor_T, batch.sampler_T)
        )
        token: TokenLoss
        if algorithm is None:
            token, sampler_T = supervised(logprobs_T), logprobs_T.detach()
        else:
            token = cispo(logprobs_T, anchor_T, sampler_T, advantages_T, algorithm)
        loss, aux_loss, changed = (token.loss_T * scales_T).sum(), None, None
        probs = torch.cat(router_logits).softmax(-1)
        expert_NK = probs.topk(self.model.num_experts_per_tok, -1).indices
        if routing_TLK is not None:
            kept_NK = routing_TLK.transpose(0, 1).flatten(0, 1)
            changed = changed_choices(expert_NK, kept_NK)
            expert_NK = replayed(expert_NK, kept_NK)
        if load_E is not None and batch.samples and self.model.router_aux_loss_coef > 0:
            load = on_device(load_E, self.device, None).to(probs)
            share = len(router_logits) * tokens
            aux_loss = self.model.router_aux_loss_coef * len(load) * (load * probs.sum(0)).sum() / share
            loss = loss + aux_loss
        columns = logprobs_T.detach(), sampler_T, entropy_T.detach(), advantages_T, scales_T
        sums = update_sums(token, *columns, aux_loss, changed)
        chosen_N = expert_NK.flatten()  # not for `bincount`, which asks the device for the largest
        chosen_E = chosen_N.new_zeros(probs.shape[-1]).scatter_add_(0, chosen_N, torch.ones_like(chosen_N))
        return loss, sums, chosen_E

    def _forward(self, batch: MicroBatch, routing_TLK: Tensor | None) -> tuple[Tensor, Tensor, list[Tensor]]:
        tokens_T, cu_seqlens = (on_device(array, self.device) for array in (batch.tokens_T, batch.cu_seqlens))
        return self.engine(tokens_T, cu_seqlens, self.config.sampling.temperature, routing_TLK)

    def _routing(self, batch: MicroBatch) -> Tensor | None:
        return None if batch.routing_TLK is None else on_device(batch.routing_TLK, self.device, None)

    @torch.no_grad()
    def logprobs(self, batches: list[MicroBatch]) -> list[np.ndarray]:
        """Log-probabilities [T] of each micro-batch under the current weights."""
        self.engine.eval()
        found = [self._forward(batch, self._routing(batch))[0] for batch in batches]
        return [logprobs_T.cpu().numpy() for logprobs_T in found]

    def export(self) -> Iterator[dict[str, np.ndarray]]:
        """All weights by name, in parts, from rank 0; nothing from the others, which take part in gathering.

        An empty part comes last, as a word that all went well. Raises NonFiniteWeights, on all ranks.
        """
        parameters = finite(whole_parameters(self.engine.module.network))
        if self.rank == 0:
            yield from in_parts(parameters)
        else:
            deque(parameters, maxlen=0)
        yield {}

    def save(self, folder: str, tokenizer_name: str, max_shard_bytes: int = 5_000_000_000) -> None:
        """`folder`/model in Hugging Face's format and, of each rank, `folder`/learner/rank-... with AdamW's moments.

        Rank 0 holds one shard and one parameter of the model beside its own partitions. Raises NonFiniteWeights, on all
        ranks.
        """
        parameters = finite(whole_parameters(self.engine.module.network))
        if self.rank == 0:
            tokenizer = load_tokenizer(tokenizer_name)
            checkpoint.save(Path(folder) / "model", self.model, parameters, tokenizer, max_shard_bytes=max_shard_bytes)
        else:
            deque(parameters, maxlen=0)  # takes part in gathering
        if self.rank == self._optimizer_rank:
            save_optimizer(self.engine, self._optimizer_folder(folder))

    def restore(self, folder: str) -> None:
        """The optimizer from what `save` wrote, after `start` with its weights. Raises RuntimeError without it."""
        restore_optimizer(self.engine, self._optimizer_folder(folder))

    @property
    def _optimizer_rank(self) -> int:
        """The rank that saves the moments which this one updates: without ZeRO all ranks hold the same."""
        return self.rank if self.config.learner.zero_stage else 0

    def _optimizer_folder(self, folder: str) -> Path:
        return Path(folder) / "learner" / f"rank-{self._optimizer_rank:05d}-of-{self.world_size:05d}"


def _host_address() -> str:
    import ray

    return ray.util.get_node_ip_address()
