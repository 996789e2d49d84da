"""One token for each of some sequences: the network over the decoding cache; a CUDA graph, or native on a CPU."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lightning_cispo.kernels.experts.moe import by_row
from lightning_cispo.model.generation.cache import DecodeCache
from lightning_cispo.model.generation.native import NativeDecoder
from lightning_cispo.model.generation.rows import Rows
from lightning_cispo.model.layout import is_router
from lightning_cispo.model.network import MiniMax
from lightning_cispo.model.routing import Routing

_FUSED_BYTES = 160 << 10
_BUCKET = 32  # step between batch sizes of graphs above this many rows


def for_sampling(network: MiniMax) -> MiniMax:
    """The same, changed in place: parameters in `sampling_precision`, and where there are kernels that give a row of a
    prompt its bits in any company, layers that take them."""
    network = sampling_precision(network.eval())
    layer: Any = network.model.layers[0]
    down_EXI, exact = layer.mlp.experts.down_proj, network.exact
    if not exact and network.config.head_dim <= 128 and by_row(down_EXI[0], down_EXI):
        from lightning_cispo.model.generation.by_row import make_by_row

        make_by_row(network)
    return network


def sampling_precision(network: MiniMax) -> MiniMax:
    """Parameters cast, in place, to the dtype they are computed in: what the learner's casts give, without its casts.

    Router, LM head and, where it is the head's too, the embedding stay as they are.
    """
    for name, parameter in network.named_parameters():
        wide = is_router(name) or parameter is network.lm_head.weight
        if not wide:
            parameter.data = parameter.data.to(network.compute_dtype)
    return network


class Decoder:
    """Logits after the last token of each running row."""

    def __init__(self, network: MiniMax, cache: DecodeCache, rows: Rows):
        self.network, self.cache, self.rows = network, cache, rows
        self.graphs: dict[int, tuple[torch.cuda.CUDAGraph, Tensor]] = {}
        self.buckets = _buckets(cache.slots)
        self.native = NativeDecoder.fitting(network, cache)
        self.fused = _fused(network, cache, rows)
        # In float32 torch's grouped GEMM asks the host for its groups, which a graph cannot.
        if cache.table_SM.is_cuda and network.compute_dtype is not torch.float32:
            self._capture()

    def __call__(self, running: int, pages: int) -> Tensor:
        """Logits [running, V] for `rows.token` at `rows.position`; no sequence has more than `pages` pages."""
        if self.native:
            logits_BV = self.native(self.rows.token[:running], self.rows.position[:running])
            if self.native.choices_LSK is not None:
                self._record(self.native.choices_LSK, running, pages)
            return logits_BV
        if not self.graphs:
            return self._decode(running, pages)
        size = next(bucket for bucket in self.buckets if bucket >= running)
        graph, logits_BV = self.graphs[size]
        graph.replay()
        return logits_BV[:running]

    def _decode(self, rows: int, pages: int) -> Tensor:
        network, cache = self.network, self.cache
        position_B = self.rows.position[:rows]
        if self.fused:
            logits_BV = self.fused(rows)
            if cache.routing is not None:
                self._record(self.fused.choices_LBK, rows, pages)
            return logits_BV
        cos, sin = network.rotary(position_B)
        paging = cache.paging(position_B, pages)
        routing = None if cache.routing is None else Routing()
        x_BX, dtype = network.embed(self.rows.token[:rows]), network.compute_dtype
        layer: Any
        for index, layer in enumerate(network.model.layers):
            if index in cache.states:
                x_BX = layer.decode(x_BX, *cache.lightning(index, position_B), dtype=dtype, routing=routing)
            else:
                held = cache.keys[index], cache.values[index]
                x_BX = layer.decode(x_BX, cos, sin, *held, paging, dtype=dtype, routing=routing)
        if routing is not None and cache.routing is not None:
            cache.routing[paging.page_B, paging.offset_B] = routing.made_TLK(cache.routing.dtype)
        return network.lm_head(network.model.norm(x_BX, dtype=dtype))

    def _record(self, choices_LSK: Tensor, rows: int, pages: int) -> None:
        """Expert choices of the last step to where its tokens lie."""
        cache = self.cache
        assert cache.routing is not None  # else nobody asks
        paging = cache.paging(self.rows.position[:rows], pages)
        choices_BLK = choices_LSK[:, :rows].transpose(0, 1)
        cache.routing[paging.page_B, paging.offset_B] = choices_BLK.to(cache.routing.dtype)

    @torch.inference_mode()
    def _capture(self) -> None:
        """A graph for every bucket, the largest first so that the others fit into its memory.

        Rows beyond the running ones compute too: they are token 0 at position 0 and write into page 0.
        """
        width, pool = self.cache.table_SM.shape[1], None
        for size in reversed(self.buckets):
            stream = torch.cuda.Stream()
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                for _ in range(2):  # kernels are compiled and chosen before anything is recorded
                    self._decode(size, width)
            torch.cuda.current_stream().wait_stream(stream)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, pool=pool):
                logits_BV = self._decode(size, width)
            pool = pool or graph.pool()
            self.graphs[size] = graph, logits_BV


def _fused(network: MiniMax, cache: DecodeCache, rows: Rows) -> Any:
    """`FusedStep` or `ExactStep` where they take network and device; the rest is left to the layers' own `decode`.

    That is float32, shared experts, and devices with less shared memory than their tiles fill; in the exact mode also
    those where the learner's experts run in other kernels.
    """
    config, device = network.config, network.lm_head.weight.device
    if device.type != "cuda" or network.compute_dtype != torch.bfloat16:
        return None
    properties: Any = torch.cuda.get_device_properties(device)
    small = properties.shared_memory_per_block_optin < _FUSED_BYTES
    if small or config.shared_intermediate_size or config.head_dim > 128:
        return None
    from lightning_cispo.model.generation.exact_step import ExactStep
    from lightning_cispo.model.generation.fused import FusedStep

    if not network.exact:
        return FusedStep(network, cache, rows)
    return ExactStep(network, cache, rows) if ExactStep.serves(network) else None


def _buckets(slots: int) -> list[int]:
    """Batch sizes: powers of two, then multiples of 32, and the whole."""
    small = [1 << power for power in range(6) if 1 << power < slots]
    return [*small, *range(2 * _BUCKET, slots, _BUCKET), slots]
