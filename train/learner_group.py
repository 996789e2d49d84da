"""The learner's ranks as one object: packs a step's sequences, hands every rank its share, adds up what they report."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any

import numpy as np
import ray

from lightning_cispo.configs.schema import AlgorithmConfig, ModelConfig, OptimizerConfig, RunConfig
from lightning_cispo.rl.advantages import Sample
from lightning_cispo.rl.packing import MicroBatch, pack
from lightning_cispo.rl.statistics import UpdateSums
from lightning_cispo.train.actors import results
from lightning_cispo.train.learner import Learner


class Outcome(Enum):
    """What became of an optimizer step."""

    applied = "applied"
    empty = "empty"  # no term of the objective had a counted token: nothing was computed
    skipped = "skipped"  # the loss or a gradient was not finite: weights and optimizer are as before


@dataclass(frozen=True)
class StepReport:
    """One optimizer step, all ranks together."""

    sums: UpdateSums
    grad_norm: float
    outcome: Outcome = Outcome.applied
    offenders: list[MicroBatch] = field(default_factory=list)  # why it was skipped


class LearnerGroup:
    """`world_size` learner ranks in Ray actors. They live and die together: a rank can't be replaced alone."""

    def __init__(self, config: RunConfig, model: ModelConfig, placement: Sequence[dict[str, Any]]):
        self.config, self.model = config, model
        actor: Any = ray.remote(Learner)
        self.ranks: list[Any] = [
            actor.options(**options).remote(config, model, rank) for rank, options in enumerate(placement)
        ]
        self.expert_load_E: list[float] | None = None  # choices per token, of the previous update

    def connect(self) -> list[int]:
        """Form the process group. Returns the ranks' process ids."""
        host, port = results([self.ranks[0].address.remote()], self._names[:1])[0]
        return self._all("connect", host, port)

    def start(self, weights: str | None, optimizer: OptimizerConfig) -> int:
        """Fresh optimizer, weights from a folder or random. Returns the parameter count."""
        self.expert_load_E = None
        return self._all("start", weights, optimizer)[0]

    def update(self, samples: list[Sample], lr: float, algorithm: AlgorithmConfig | None) -> StepReport:
        """One optimizer step over `samples`; CISPO, or cross-entropy without an `algorithm`.

        Where it is not applied, the next one has the expert load that this one had.
        """
        if not self._counts(samples):
            return StepReport(UpdateSums(), 0.0, Outcome.empty)
        batches = pack(samples, len(self.ranks), self.config.learner.micro_batch_tokens)
        tokens = sum(len(sample.tokens_T) for sample in samples)
        load_E = None if self.expert_load_E is None else np.array(self.expert_load_E)
        reports = self._results(
            [
                rank.update.remote(batch, lr, algorithm, load_E, tokens)
                for rank, batch in zip(self.ranks, batches, strict=True)
            ]
        )
        sums = UpdateSums()
        for report in reports:
            sums.add(report.sums)
        if not all(report.applied for report in reports):
            pairs = zip(batches, reports, strict=True)
            offenders = [batch[index] for batch, report in pairs for index in report.offenders]
            return StepReport(sums, reports[0].grad_norm, Outcome.skipped, offenders)
        chosen_E = sum(report.expert_counts_E for report in reports)
        self.expert_load_E = (chosen_E / sum(report.router_tokens for report in reports)).tolist()
        return StepReport(sums, reports[0].grad_norm)

    def _counts(self, samples: list[Sample]) -> bool:
        """Whether a term of the objective has a counted token; the load-balancing term counts all there are."""
        balances = self.expert_load_E is not None and self.model.router_aux_loss_coef > 0
        return any(balances or (sample.scale != 0 and sample.loss_mask_T.any()) for sample in samples)

    def anchor(self, samples: list[Sample]) -> list[Sample]:
        """The samples with log-probabilities under the current weights as their anchor."""
        if not samples:
            return []
        batches = pack(samples, len(self.ranks), self.config.learner.micro_batch_tokens)
        found = self._results([rank.logprobs.remote(batch) for rank, batch in zip(self.ranks, batches, strict=True)])
        anchored = list(samples)
        for rank_batches, rank_results in zip(batches, found, strict=True):
            for batch, logprobs_T in zip(rank_batches, rank_results, strict=True):
                for index, row in zip(batch.samples, np.split(logprobs_T, batch.cu_seqlens[1:-1]), strict=False):
                    masked = np.where(samples[index].loss_mask_T, row, 0).astype(np.float32)
                    anchored[index] = replace(samples[index], anchor_T=masked)
        return anchored

    def export(self) -> list[Any]:
        """Object references to {name: array}, all weights together: they go from rank 0 to the workers directly.

        Raises NonFiniteWeights.
        """
        streams = [rank.export.remote() for rank in self.ranks]
        parts = [list(stream) for stream in streams]
        for part in parts:
            ray.get(part.pop())  # empty, or what went wrong
        return parts[0]

    def save(self, folder: str, tokenizer_name: str) -> None:
        self._all("save", folder, tokenizer_name)

    def restore(self, folder: str, expert_load_E: list[float] | None) -> None:
        self._all("restore", folder)
        finite = expert_load_E is not None and all(map(math.isfinite, expert_load_E))
        self.expert_load_E = expert_load_E if finite else None

    def close(self) -> None:
        for rank in self.ranks:
            ray.kill(rank)
        self.ranks = []

    def _all(self, method: str, *arguments: Any) -> list[Any]:
        return self._results([getattr(rank, method).remote(*arguments) for rank in self.ranks])

    def _results(self, references: list[Any]) -> list[Any]:
        return results(references, self._names)

    @property
    def _names(self) -> list[str]:
        return [f"learner rank {rank} of {len(self.ranks)}" for rank in range(len(self.ranks))]
