"""One sampling step over the rows of running sequences: draw, record, and find which of them it ends."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields

import numpy as np
import torch
from torch import Tensor

from lightning_cispo.kernels.decoding.columns import Columns
from lightning_cispo.kernels.decoding.stops import match_stops
from lightning_cispo.kernels.exact.layers import tempered_logprobs
from lightning_cispo.kernels.native.library import serves
from lightning_cispo.kernels.native.sample import record_native, sample_native
from lightning_cispo.model.generation.randomness import uniform
from lightning_cispo.model.generation.report import STOPS, Report, Watched
from lightning_cispo.model.generation.rows import COLUMNS, Rows
from lightning_cispo.model.generation.sampling import ban, sample
from lightning_cispo.model.generation.sequence import Sequence

RECORDED = Columns(**{field.name: COLUMNS.index(field.name) for field in fields(Columns)})


class Sampler:
    def __init__(self, rows: Rows, repetition_tokens: int, repetition_probability: float):
        self.rows, self.repetition_tokens = rows, repetition_tokens
        self.repetition_logprob = float(np.log(repetition_probability))

    def __call__(
        self, sequences: list[Sequence], slots: slice, clock: int, logits_BV: Tensor, features: Mapping[str, int]
    ) -> Report:
        """A token for each of `slots`, in which `sequences` run. Never waits for the device, but for interruptions.

        features: how many of the running sequences ask for what `Sequence.features` names.
        """
        rows = self.rows
        plain = not any(features[name] for name in ("cut", "top_logprobs", "interruption"))
        if plain and (logits_BV.is_cuda or serves(logits_BV)):
            bans = features["min_tokens"] > 0
            drawn = self._drawn(slots, logits_BV, bans)
            banned = bans and any(sequence.count(clock) <= sequence.request.min_tokens for sequence in sequences)
            whole_B = self._whole(slots, logits_BV, rows.count[slots], *drawn, features) if banned else None
            watched = _watched(sequences, *drawn, None) if features["watched"] else None
            return self._report(sequences, clock, slots, self._recorded(slots, *drawn, whole_B), features, watched)
        count_B = rows.count[slots].clone()
        if features["interruption"]:
            self._interrupt(sequences, clock)
        whole_BV = logits_BV
        if features["min_tokens"]:
            logits_BV = ban(logits_BV, rows.stop_ids[slots], count_B < rows.min_tokens[slots])
        token_B, logprob_B, logp_BV = self._draw(slots, count_B, logits_BV, features)
        confident_B = self._whole(slots, whole_BV, count_B, token_B, logprob_B, features) > self.repetition_logprob
        if features["interruption"]:
            token_B, written_B = self._written(slots, count_B, token_B)
            logprob_B, confident_B = logprob_B.masked_fill(written_B, 0), confident_B & ~written_B
        self._record(slots, count_B, token_B, logprob_B, confident_B)
        watched = _watched(sequences, token_B, logprob_B, logp_BV) if features["watched"] else None
        return self._report(sequences, clock, slots, self._ended(slots, token_B), features, watched)

    def _report(
        self,
        sequences: list[Sequence],
        clock: int,
        slots: slice,
        code_B: Tensor,
        features: Mapping[str, int],
        watched: Watched | None,
    ) -> Report:
        if features["stop_strings"]:
            match_stops(self.rows.stop_table.matcher, code_B, self.rows.longs, RECORDED, slots.start)
        return Report.of(sequences, clock, code_B, watched)

    def _draw(
        self, slots: slice, count_B: Tensor, logits_BV: Tensor, features: Mapping[str, int]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Tokens, their log-probabilities and, where somebody asks, those of the whole vocabulary (else empty)."""
        rows = self.rows
        temperature_B, key_B = rows.temperature[slots], rows.key[slots]
        if serves(logits_BV) and not features["cut"] and not features["top_logprobs"]:
            return *sample_native(logits_BV, temperature_B, key_B, count_B), logits_BV[:0]
        cut = (rows.top_p[slots], rows.top_k[slots]) if features["cut"] else ()
        token_B, logprob_B, logp_BV = sample(logits_BV, temperature_B, uniform(key_B, count_B), *cut)
        if logits_BV.is_cuda or serves(logits_BV):
            # Rows that cut nothing get what they get where nobody asks for more, to the bit.
            whole_B = (rows.top_p[slots] == 1) & (rows.top_k[slots] == 0)
            drawn_B, drawn_logprob_B = self._drawn(slots, logits_BV, bans=False)
            token_B, logprob_B = drawn_B.where(whole_B, token_B), drawn_logprob_B.where(whole_B, logprob_B)
        return token_B, logprob_B, logp_BV

    def _whole(
        self,
        slots: slice,
        logits_BV: Tensor,
        count_B: Tensor,
        token_B: Tensor,
        logprob_B: Tensor,
        features: Mapping[str, int],
    ) -> Tensor:
        """Log-probabilities [B] of the tokens among all others, by which repetition is judged.

        What is left of a cut distribution says nothing of repetition, nor does one whose stop tokens are banned.
        """
        if not features["cut"] and not features["min_tokens"]:
            return logprob_B
        temperature_B = self.rows.temperature[slots]
        logp_BV = tempered_logprobs(logits_BV, temperature_B.masked_fill(temperature_B == 0, 1.0))
        whole_B = logp_BV.gather(1, token_B[:, None]).squeeze(1)
        return whole_B if features["cut"] else whole_B.where(count_B < self.rows.min_tokens[slots], logprob_B)

    def _recorded(self, slots: slice, token_B: Tensor, logprob_B: Tensor, whole_B: Tensor | None = None) -> Tensor:
        """Do `_record` and `_ended` in one launch, or one native call; codes into STOPS [B].

        whole_B: the log-probabilities by which repetition is judged, where they are others.
        """
        record: Callable[..., Tensor] = record_native
        if token_B.is_cuda:
            from lightning_cispo.kernels.decoding.record_triton import record_triton as record
        rows = self.rows
        return record(
            token_B,
            logprob_B,
            rows.stop_ids[slots],
            rows.longs,
            RECORDED,
            rows.tokens,
            rows.logprobs,
            slots.start,
            self.repetition_logprob,
            self.repetition_tokens,
            whole_B,
        )

    def _drawn(self, slots: slice, logits_BV: Tensor, bans: bool) -> tuple[Tensor, Tensor]:
        """Tokens [B] and their log-probabilities, where nothing is cut off."""
        rows = self.rows
        if not logits_BV.is_cuda:
            if bans:
                logits_BV = ban(logits_BV, rows.stop_ids[slots], rows.count[slots] < rows.min_tokens[slots])
            return sample_native(logits_BV, rows.temperature[slots], rows.key[slots], rows.count[slots])
        from lightning_cispo.kernels.decoding.sample_triton import Draw, sample_triton

        draw = Draw(rows.temperature[slots], rows.key[slots], rows.count[slots], rows.min_tokens[slots])
        return sample_triton(logits_BV, draw, rows.stop_ids[slots], bans)

    def _record(self, slots: slice, count_B: Tensor, token_B: Tensor, logprob_B: Tensor, confident_B: Tensor) -> None:
        rows = self.rows
        index_B = torch.arange(slots.start, slots.stop, device=count_B.device)
        rows.tokens[index_B, count_B] = token_B.int()
        rows.logprobs[index_B, count_B] = logprob_B
        rows.token[slots] = token_B
        rows.count[slots] += 1
        rows.confident[slots] = (rows.confident[slots] + 1) * confident_B

    def _ended(self, slots: slice, token_B: Tensor) -> Tensor:
        """Codes into STOPS [B]; of several reasons the first counts."""
        rows = self.rows
        code_B = (rows.count[slots] >= rows.limit[slots]) * STOPS.index("length")
        code_B = code_B.masked_fill(rows.confident[slots] >= self.repetition_tokens, STOPS.index("repetition"))
        if rows.stop_ids.shape[1] > 1:
            stops_B = (rows.stop_ids[slots, 1:] == token_B[:, None]).any(1)
            code_B = code_B.masked_fill(stops_B, STOPS.index("stop"))
        return code_B.masked_fill(token_B == rows.eos_id, STOPS.index("eos"))

    def _interrupt(self, sequences: list[Sequence], clock: int) -> None:
        """Have the closing text written where thinking has used its tokens up."""
        for sequence in sequences:
            start = sequence.count(clock) - 1
            interruption = sequence.due(start)
            if interruption and not interruption.closed(self.rows.tokens[sequence.slot, :start].cpu().numpy()):
                self.rows.force(sequence.slot, start, interruption.closing_T)
                sequence.written.append(range(start, start + len(interruption.closing_T)))

    def _written(self, slots: slice, count_B: Tensor, token_B: Tensor) -> tuple[Tensor, Tensor]:
        """The tokens, an interruption's where it writes, and where that is."""
        rows = self.rows
        start_B = rows.forced_from[slots]
        written_B = (count_B >= start_B) & (count_B < rows.forced_to[slots])
        index_B = (count_B - start_B).clamp(0, rows.forced.shape[1] - 1)
        return rows.forced[slots].gather(1, index_B[:, None]).squeeze(1).where(written_B, token_B), written_B


def _watched(sequences: list[Sequence], token_B: Tensor, logprob_B: Tensor, logp_BV: Tensor | None) -> Watched:
    most = max(sequence.request.top_logprobs for sequence in sequences)
    if logp_BV is None or not most:
        return Watched(token_B, logprob_B, token_B.new_empty(len(token_B), 0), logprob_B.new_empty(len(token_B), 0))
    top = logp_BV.topk(min(most, logp_BV.shape[1]), dim=-1)
    return Watched(token_B, logprob_B, top.indices, top.values)
