"""The shape of a MiniMax-Text-01 / M1 network, in the field names of the released `config.json`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import List, Optional

LIGHTNING, SOFTMAX = 0, 1


@dataclass
class ModelConfig:
    """Numbers that define the network. Field names are the release's; unset (None) ones are derived.

    `attn_type_list[i]` is 0 for a lightning layer and 1 for a softmax layer. Left out, every
    `softmax_every`-th layer is softmax, as in the release (7, 15, ..., 79 of 80). The three `alpha`s
    left out become DeepNorm's (2 * layers) ** 0.25.
    """

    vocab_size: int = 272  # tokens
    hidden_size: int = 128  # width of the residual stream
    intermediate_size: int = 128  # inner width of an expert
    num_hidden_layers: int = 8  # layers
    num_attention_heads: int = 4  # query heads, of both kinds of layer
    num_key_value_heads: int = 2  # key-value heads of a softmax layer
    head_dim: int = 32  # width of a head
    num_local_experts: int = 8  # experts of a layer
    num_experts_per_tok: int = 2  # experts that a token goes to
    softmax_every: int = 8  # each such layer is softmax, the others lightning
    attn_type_list: Optional[List[int]] = None  # 0 lightning, 1 softmax, layer by layer; null: by softmax_every
    rotary_dim: Optional[int] = None  # leading dims of a head that rotate; null: all
    rope_theta: float = 10_000_000.0  # base of the rotary frequencies
    rms_norm_eps: float = 1e-5  # of all norms but the one below
    linear_norm_eps: float = 1e-6  # of the norm after lightning attention
    postnorm: bool = True  # the residual is the norm's output (false: its input)
    layernorm_linear_attention_alpha: Optional[float] = (
        None  # factor of the residual at a lightning layer; null: DeepNorm's
    )
    layernorm_linear_attention_beta: float = 1.0  # factor of the layer's output there
    layernorm_full_attention_alpha: Optional[float] = None  # the same at a softmax layer
    layernorm_full_attention_beta: float = 1.0  # the same at a softmax layer
    layernorm_mlp_alpha: Optional[float] = None  # the same at the experts
    layernorm_mlp_beta: float = 1.0  # the same at the experts
    shared_intermediate_size: int = 0  # inner width of an expert that every token goes to; 0: none
    router_aux_loss_coef: float = 0.001  # weight of the balancing loss
    router_jitter_noise: float = 0.0  # range of the noise on the router's input while training
    max_position_embeddings: int = 10_240_000  # longest sequence
    initializer_range: float = 0.02  # standard deviation of random weights
    tie_word_embeddings: bool = False  # the LM head is the embedding

    @property
    def layer_types(self) -> List[int]:
        if self.attn_type_list is not None:
            return list(self.attn_type_list)
        return [SOFTMAX if (i + 1) % self.softmax_every == 0 else LIGHTNING for i in range(self.num_hidden_layers)]

    @property
    def rope_dims(self) -> int:
        """Leading dims of each head that rotate."""
        return self.head_dim if self.rotary_dim is None else self.rotary_dim

    def attention_alpha(self, layer: int) -> float:
        full = self.layer_types[layer] == SOFTMAX
        given = self.layernorm_full_attention_alpha if full else self.layernorm_linear_attention_alpha
        return self._deepnorm_alpha if given is None else given

    def attention_beta(self, layer: int) -> float:
        full = self.layer_types[layer] == SOFTMAX
        return self.layernorm_full_attention_beta if full else self.layernorm_linear_attention_beta

    @property
    def mlp_alpha(self) -> float:
        return self._deepnorm_alpha if self.layernorm_mlp_alpha is None else self.layernorm_mlp_alpha

    @property
    def _deepnorm_alpha(self) -> float:
        return (2 * self.num_hidden_layers) ** 0.25

    def problems(self) -> List[str]:
        """What contradicts itself, one line each, naming the key; empty when the shape is sound."""
        found = []
        positive = (
            "vocab_size hidden_size intermediate_size num_hidden_layers num_attention_heads num_key_value_heads "
            "head_dim num_local_experts num_experts_per_tok softmax_every max_position_embeddings"
        )
        for name in positive.split():
            if getattr(self, name) < 1:
                found.append(f"{name}={getattr(self, name)}: must be at least 1")
        for name in ("rope_theta", "rms_norm_eps", "linear_norm_eps"):
            if not 0 < getattr(self, name) < float("inf"):
                found.append(f"{name}={getattr(self, name)}: must be above 0")
        for name in ("shared_intermediate_size", "router_aux_loss_coef", "initializer_range"):
            if not 0 <= getattr(self, name) < float("inf"):
                found.append(f"{name}={getattr(self, name)}: must be at least 0")
        if not 0 <= self.router_jitter_noise < 1:
            found.append(f"router_jitter_noise={self.router_jitter_noise}: must be at least 0 and below 1")
        if found:
            return found
        if self.num_attention_heads % self.num_key_value_heads:
            found.append(
                f"num_key_value_heads={self.num_key_value_heads}: "
                f"must divide num_attention_heads={self.num_attention_heads}"
            )
        if self.num_experts_per_tok > self.num_local_experts:
            found.append(
                f"num_experts_per_tok={self.num_experts_per_tok}: more than num_local_experts={self.num_local_experts}"
            )
        if self.rope_dims % 2 or not 0 < self.rope_dims <= self.head_dim:
            found.append(f"rotary_dim={self.rope_dims}: must be even and at most head_dim={self.head_dim}")
        if len(self.layer_types) != self.num_hidden_layers:
            found.append(
                f"attn_type_list: {len(self.layer_types)} entries for num_hidden_layers={self.num_hidden_layers}"
            )
        if any(kind not in (LIGHTNING, SOFTMAX) for kind in self.layer_types):
            found.append("attn_type_list: entries must be 0 (lightning) or 1 (softmax)")
        return found
