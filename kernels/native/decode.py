"""A decoding step of the whole network in one call of `kernels/native/c/decode.c`."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from lightning_cispo.kernels.native.library import call, library

_LONGS = "hidden heads kv_heads dim experts top_k inner shared vocabulary layers rotated page_tokens table_row postnorm"
_POINTERS = (
    "input_norm mixer_norm post_norm decay qkv gate out router gate_up down shared_gate_up shared_down coefficient "
    "state keys values choices"
)


class _Network(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_int64) for name in _LONGS.split()),
        *((name, ctypes.c_float) for name in ("eps", "linear_eps", "mlp_alpha", "mlp_beta")),
        *((name, ctypes.c_void_p) for name in ("embedding", "final_norm", "head", "frequencies")),
    ]


class _Layer(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_void_p) for name in _POINTERS.split()),
        *((name, ctypes.c_float) for name in ("alpha", "beta")),
    ]


@dataclass(frozen=True)
class LayerTensors:
    """A layer's weights, row-major as the network holds them, and what it keeps of its sequences.

    All float32, but for `choices`, int64, where each step leaves the experts that its rows went to.

    A lightning layer has `mixer_norm`, `decay_H` (exp(-slope)), `gate` and `state`, a softmax layer `keys` and
    `values`; `qkv` is that of either, q, k and v one after the other in a softmax layer.
    """

    input_norm_X: Tensor
    post_norm_X: Tensor
    qkv_JX: Tensor
    out_XW: Tensor
    router_EX: Tensor
    gate_up_EJX: Tensor
    down_EXI: Tensor
    scale: tuple[float, float]  # of the residual and of the attention's update
    mixer_norm_W: Tensor | None = None
    decay_H: Tensor | None = None
    gate_WX: Tensor | None = None
    shared_gate_up_JX: Tensor | None = None
    shared_down_XI: Tensor | None = None
    coefficient_1X: Tensor | None = None
    state_SHDD: Tensor | None = None
    keys_NKPD: Tensor | None = None
    values_NKPD: Tensor | None = None
    choices_SK: Tensor | None = None


_PACKED = {"qkv_JX", "out_XW", "router_EX", "gate_up_EJX", "down_EXI", "gate_WX", "shared_gate_up_JX", "shared_down_XI"}


class NativeDecode:
    """Weights packed for one network. They are copies: make another one when the weights have changed.

    Args:
        layers: one for each layer.
        numbers: what the C structure calls `heads`, `kv_heads`, `dim`, `top_k`, `rotated`, `page_tokens`, `postnorm`,
            `eps`, `linear_eps`, `mlp_alpha`, `mlp_beta`.
        embedding_VX, final_norm_X, head_VX, frequencies: the latter RoPE's [rotated / 2].
        former: one for the same network, whose memory this one takes over.
    """

    def __init__(
        self,
        layers: list[LayerTensors],
        numbers: dict[str, float],
        embedding_VX: Tensor,
        final_norm_X: Tensor,
        head_VX: Tensor,
        frequencies: Tensor,
        former: NativeDecode | None = None,
    ):
        found = library()
        assert found is not None, "asked for where there is no library"
        self._library = found
        self._memory: dict[str, Tensor] = former._memory if former else {}
        head = self._packed("head", head_VX)
        self._kept = [embedding_VX, final_norm_X, head, frequencies]
        pointers = dict(zip(("embedding", "final_norm", "head", "frequencies"), map(_address, self._kept), strict=True))
        experts, twice_inner, hidden = layers[0].gate_up_EJX.shape
        shared = layers[0].shared_down_XI
        self._network = _Network(
            hidden=hidden,
            experts=experts,
            inner=twice_inner // 2,
            shared=0 if shared is None else shared.shape[1],
            vocabulary=len(head_VX),
            layers=len(layers),
            **pointers,
            **numbers,
        )
        self._layers = (_Layer * len(layers))(*(self._layer(i, layer) for i, layer in enumerate(layers)))

    def _layer(self, index: int, layer: LayerTensors) -> _Layer:
        addresses = {}
        for field in fields(layer):
            tensor = getattr(layer, field.name)
            if isinstance(tensor, Tensor):
                held = self._packed(f"{index} {field.name}", tensor) if field.name in _PACKED else tensor
                self._kept.append(held)
                addresses[field.name.rsplit("_", 1)[0]] = _address(held)
        return _Layer(alpha=layer.scale[0], beta=layer.scale[1], **addresses)

    def _packed(self, name: str, weight: Tensor) -> Tensor:
        """Weights [..., n, k] in the panels that `matmul.h` reads."""
        n, k = weight.shape[-2:]
        count = weight.numel() // (n * k)
        if name not in self._memory:
            self._memory[name] = torch.empty(count, self._library.packed_columns(ctypes.c_int64(n)), k)
        call("pack_weights", count, n, k, weight, self._memory[name])
        return self._memory[name]

    def __call__(self, token_B: Tensor, position_B: Tensor, table_SM: Tensor) -> Tensor:
        """Logits float32 [B, V] after `token_B` at `position_B`, both int64; states, keys and values are written.

        table_SM: int64, the pages of the first B rows in their order.
        """
        logits_BV = torch.empty(len(token_B), self._network.vocabulary)
        self._network.table_row = table_SM.stride(0)
        call("decode", self._network, self._layers, len(token_B), token_B, position_B, table_SM, logits_BV)
        return logits_BV


def _address(tensor: Tensor) -> int:
    assert tensor.dtype in (torch.float32, torch.int64) and tensor.is_contiguous()
    return tensor.data_ptr()
