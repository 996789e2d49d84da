"""Decoding on a CPU in one native call a step, where the network is float32 and a compiler is at hand."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lightning_cispo.kernels.native.decode import LayerTensors, NativeDecode
from lightning_cispo.kernels.native.library import serves
from lightning_cispo.model.attention import layer_slopes
from lightning_cispo.model.generation.cache import DecodeCache
from lightning_cispo.model.layers import rotary_frequencies
from lightning_cispo.model.network import MiniMax


class NativeDecoder:
    """What `Decoder` computes in torch. The packed weights are made anew once a parameter has been written."""

    def __init__(self, network: MiniMax, cache: DecodeCache):
        self.network, self.cache = network, cache
        self._parameters = list(network.parameters())
        config, recorded = network.config, cache.routing is not None
        shape = (config.num_hidden_layers, cache.slots, config.num_experts_per_tok)
        self.choices_LSK = torch.zeros(shape, dtype=torch.int64) if recorded else None  # of the last step
        self._decode: NativeDecode | None = None
        self._seen: list[tuple[int, int]] = []

    @classmethod
    def fitting(cls, network: MiniMax, cache: DecodeCache) -> NativeDecoder | None:
        """One for this network, or None where torch is to compute."""
        parameters = list(network.parameters())
        counted = not any(parameter.is_inference() for parameter in parameters)  # their writes
        # An exact learner has the bits of all layers but shared experts.
        plain = not (network.exact and network.config.shared_intermediate_size)
        return cls(network, cache) if plain and counted and serves(*parameters) else None

    def __call__(self, token_B: Tensor, position_B: Tensor) -> Tensor:
        """Logits [B, V] of the first rows."""
        # Also a write through `.data` is seen if it changes the storage; in place it is not.
        state = [(parameter._version, parameter.data_ptr()) for parameter in self._parameters]
        if self._decode is None or state != self._seen:
            self._decode = self._packed(self._decode)
            self._seen = state
        return self._decode(token_B, position_B, self.cache.table_SM)

    def _packed(self, former: NativeDecode | None) -> NativeDecode:
        network, config = self.network, self.network.config
        numbers = {
            "heads": config.num_attention_heads,
            "kv_heads": config.num_key_value_heads,
            "dim": config.head_dim,
            "top_k": config.num_experts_per_tok,
            "rotated": config.rope_dims,
            "page_tokens": self.cache.page_tokens,
            "postnorm": int(config.postnorm),
            "eps": config.rms_norm_eps,
            "linear_eps": config.linear_norm_eps,
            "mlp_alpha": config.mlp_alpha,
            "mlp_beta": config.layernorm_mlp_beta,
        }
        layers = [self._layer(index, layer) for index, layer in enumerate(network.model.layers)]
        frequencies = rotary_frequencies(config.rope_dims, config.rope_theta, torch.device("cpu"))
        model = network.model
        ends = model.embed_tokens.weight, model.norm.weight, network.lm_head.weight
        return NativeDecode(layers, numbers, *ends, frequencies, former)

    def _layer(self, index: int, layer: Any) -> LayerTensors:
        cache, mixer, experts = self.cache, layer.self_attn, layer.mlp.experts
        own: dict[str, Tensor]
        if index in cache.states:
            slopes_H = layer_slopes(mixer.heads, index, mixer.layers, torch.device("cpu"))
            own = {
                "qkv_JX": mixer.qkv_proj.weight,
                "gate_WX": mixer.output_gate.weight,
                "out_XW": mixer.out_proj.weight,
                "mixer_norm_W": mixer.norm.weight,
                "decay_H": torch.exp(-slopes_H.float()),
                "state_SHDD": cache.states[index],
            }
        else:
            own = {
                "qkv_JX": torch.cat([mixer.q_proj.weight, mixer.k_proj.weight, mixer.v_proj.weight]),
                "out_XW": mixer.o_proj.weight,
                "keys_NKPD": cache.keys[index],
                "values_NKPD": cache.values[index],
            }
        if hasattr(layer, "shared_mlp"):
            shared = layer.shared_mlp
            own["shared_gate_up_JX"] = torch.cat([shared.gate_proj.weight, shared.up_proj.weight])
            own["shared_down_XI"], own["coefficient_1X"] = shared.down_proj.weight, layer.coefficient.weight
        return LayerTensors(
            layer.input_layernorm.weight,
            layer.post_attention_layernorm.weight,
            router_EX=layer.mlp.gate.weight,
            gate_up_EJX=experts.gate_up_proj,
            down_EXI=experts.down_proj,
            scale=layer.attention_scale,
            choices_SK=None if self.choices_LSK is None else self.choices_LSK[index],
            **own,
        )
