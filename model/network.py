"""The network of MiniMax-Text-01 and M1: one definition for learner and sampler."""

from __future__ import annotations

from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from lightning_cispo.configs.schema import SOFTMAX, ModelConfig
from lightning_cispo.kernels.exact import mixers as exact_mixers
from lightning_cispo.kernels.exact.layers import pointwise
from lightning_cispo.kernels.norm.rms_norm import scaled_sum
from lightning_cispo.model.attention import LightningAttention, SoftmaxAttention
from lightning_cispo.model.exact import make_exact
from lightning_cispo.model.layers import (
    AddedStreamNorm,
    Context,
    Linear,
    LMHead,
    Packed,
    RMSNorm,
    StreamNorm,
    at_least_float32,
    rotary_frequencies,
    rotary_tables,
)
from lightning_cispo.model.layout import parameter_shapes
from lightning_cispo.model.moe import MoE, SharedExpert
from lightning_cispo.model.partition import local_part
from lightning_cispo.model.recompute import recomputed
from lightning_cispo.model.routing import Routing


class Output(NamedTuple):
    hidden_TX: Tensor  # after the final norm
    router_logits: list[Tensor]  # a layer: [T, E], float32 or better
    context: Context | None  # for continuing the sequences, if asked for


class DecoderLayer(nn.Module):
    """Attention and experts, each around a residual that, post-norm, is the *normalised* input times alpha."""

    def __init__(self, config: ModelConfig, layer: int):
        super().__init__()
        softmax = config.layer_types[layer] == SOFTMAX
        self.self_attn = SoftmaxAttention(config, layer) if softmax else LightningAttention(config, layer)
        self.mlp = MoE(config, layer)
        self.input_layernorm = StreamNorm(config.hidden_size, config.rms_norm_eps)
        self.post_attention_layernorm = AddedStreamNorm(config.hidden_size, config.rms_norm_eps)
        if config.shared_intermediate_size > 0:
            self.shared_mlp = SharedExpert(config)
            self.coefficient = Linear(config.hidden_size, 1)
        self.postnorm = config.postnorm
        self.attention_scale = config.attention_alpha(layer), config.attention_beta(layer)
        self.mlp_scale = config.mlp_alpha, config.layernorm_mlp_beta

    def _feed_forward(self, residual: Tensor, update: Tensor, routing: Routing | None) -> tuple[Tensor, Tensor]:
        """From the residual beside the attention, and its output."""
        scales = self.attention_scale
        residual, unrounded, normed = self.post_attention_layernorm(residual, update, scales, self.postnorm)
        if self.mlp.jitters:
            unrounded = self.mlp.jittered(unrounded)
            normed, residual = unrounded.to(normed.dtype), unrounded if self.postnorm else residual
        update, router_logits = self.mlp(normed, routing, unrounded)
        if hasattr(self, "shared_mlp"):
            share = pointwise(torch.sigmoid, self.coefficient(normed))
            update = update * (1 - share) + self.shared_mlp(normed) * share
        return scaled_sum(residual, update, self.mlp_scale), router_logits

    def forward(self, x_TX: Tensor, packed: Packed) -> tuple[Tensor, Tensor]:
        """The stream after this layer, and the router's logits."""
        residual, normed = self.input_layernorm(x_TX, packed.dtype, self.postnorm)
        return self._feed_forward(residual, self.self_attn(normed, packed), packed.routing)

    def decode(
        self, x_BX: Tensor, *cache: Any, dtype: torch.dtype | None = None, routing: Routing | None = None
    ) -> Tensor:
        residual, normed = self.input_layernorm(x_BX, dtype or x_BX.dtype, self.postnorm)
        return self._feed_forward(residual, self.self_attn.decode(normed, *cache), routing)[0]


class Decoder(nn.Module):
    def __init__(self, config: ModelConfig):
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(DecoderLayer(config, i) for i in range(config.num_hidden_layers))
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)


class MiniMax(nn.Module):
    """Embedding, decoder layers, LM head. Parameters are float32; layers compute in `compute_dtype`, and what goes by
    them, the residual stream, is in float32 or better (exact: in `compute_dtype`).

    `exact`: what a token comes to depends on nothing but the tokens before it, to the bit, packed or decoded.
    """

    def __init__(self, config: ModelConfig, compute_dtype: torch.dtype = torch.float32, exact: bool = False):
        super().__init__()
        if problems := config.problems():
            raise ValueError("; ".join(problems))
        self.config, self.compute_dtype, self.exact = config, compute_dtype, exact
        self.checkpoint_activations = False
        self.model = Decoder(config)
        self.lm_head = LMHead(config.hidden_size, config.vocab_size)
        if config.tie_word_embeddings:
            self.lm_head.weight = cast(nn.Parameter, self.model.embed_tokens.weight)
        if exact:
            make_exact(self)

    def initialize(self, seed: int) -> MiniMax:
        """Random weights: normal(0, initializer_range), norms at 1. The same under any partition by ZeRO-3."""
        generator, shapes = torch.Generator().manual_seed(seed), parameter_shapes(self.config)
        std = self.config.initializer_range
        for name, parameter in self.named_parameters():
            if "norm" not in name:
                whole = torch.empty(shapes[name], device="cpu").normal_(std=std, generator=generator)
                held, start = local_part(parameter)
                own = whole.view(-1)[start : start + len(held)]
                held[: len(own)].copy_(own)
        return self

    def embed(self, tokens_T: Tensor) -> Tensor:
        """The residual stream's beginning [T, X]: embeddings rounded as a sampler's weights are."""
        x_TX = self.model.embed_tokens(tokens_T).to(self.compute_dtype)
        return x_TX if self.exact else x_TX.to(at_least_float32(self.compute_dtype))

    def rotary(self, positions_T: Tensor) -> tuple[Tensor, Tensor]:
        config = self.config
        if self.exact and self.compute_dtype == torch.float32:
            frequencies = rotary_frequencies(config.rope_dims, config.rope_theta, positions_T.device)
            return exact_mixers.rotary_tables(positions_T, frequencies)
        return rotary_tables(positions_T, config.rope_dims, config.rope_theta, self.compute_dtype)

    def forward(
        self,
        tokens_T: Tensor,
        cu_seqlens: Tensor,
        past: Context | None = None,
        return_context: bool = False,
        routing: Routing | None = None,
    ) -> Output:
        """Packed rows in, final hidden states out.

        Args:
            tokens_T: int64 [T]. cu_seqlens: int64 [S + 1], from 0 to T.
            past: what an earlier call returned as context for the same S sequences.
            routing: collects the experts chosen, or gives those to keep to.
        """
        lengths_S = cu_seqlens[1:] - cu_seqlens[:-1]
        starts_S = cu_seqlens[:-1] - (past.lengths_S if past else 0)
        # Told how many there will be, the host does not wait for the sum.
        starts_T = starts_S.repeat_interleave(lengths_S, output_size=len(tokens_T))
        positions_T = torch.arange(len(tokens_T), device=tokens_T.device) - starts_T
        future = Context(lengths_S + (past.lengths_S if past else 0)) if return_context else None
        packed = Packed(cu_seqlens, *self.rotary(positions_T), past, future, routing, self.compute_dtype)
        x_TX = self.embed(tokens_T)
        router_logits, jitters = [], self.training and self.config.router_jitter_noise > 0
        for layer in self.model.layers:
            if self.checkpoint_activations and torch.is_grad_enabled():
                x_TX, logits = recomputed(layer, x_TX, packed, random=jitters)
            else:
                x_TX, logits = layer(x_TX, packed)
            router_logits.append(logits)
        return Output(self.model.norm(x_TX, dtype=self.compute_dtype), router_logits, future)

    def logprobs(
        self, tokens_T: Tensor, cu_seqlens: Tensor, temperature: float = 1.0, routing: Routing | None = None
    ) -> tuple[Tensor, Tensor, Output]:
        """Log-probability of every token given those before it in its sequence, and the entropy it was drawn from.

        Returns logprobs [T] and entropy [T], float32; both are 0 at each sequence's first token, which nothing
        precedes.
        """
        output = self(tokens_T, cu_seqlens, routing=routing)
        # What a row says of the token after it; nothing where that opens another sequence. Shapes alone decide what
        # runs: the host waits for no borders.
        follows_T = torch.ones(len(tokens_T) + 1, device=tokens_T.device).index_fill(0, cu_seqlens, 0.0)[1:]
        logprobs, entropy = self.lm_head(output.hidden_TX, tokens_T.roll(-1), temperature, follows_T)
        return logprobs.roll(1), entropy.roll(1), output
