"""Mixture of experts: fp32 router, top-k renormalised, stacked experts, no token dropped."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_cispo.configs.schema import ModelConfig
from lightning_cispo.kernels.exact.layers import pointwise
from lightning_cispo.kernels.experts.moe import moe_experts, routed_experts, top_experts
from lightning_cispo.kernels.experts.router import router_logits
from lightning_cispo.model.layers import Linear
from lightning_cispo.model.routing import Routing


class Experts(nn.Module):
    """All experts as two stacked parameters, which is what ZeRO, grouped GEMM and weight publication want."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        experts, inner, hidden = config.num_local_experts, config.intermediate_size, config.hidden_size
        self.gate_up_proj = nn.Parameter(torch.empty(experts, 2 * inner, hidden))
        self.down_proj = nn.Parameter(torch.empty(experts, hidden, inner))

    def forward(self, x_TX: Tensor, expert_TK: Tensor, weight_TK: Tensor) -> Tensor:
        return moe_experts(x_TX, expert_TK, weight_TK, self.gate_up_proj, self.down_proj)


class Router(Linear):
    """Logits in float32 or better, whatever the rows come in."""

    def forward(self, x_TX: Tensor) -> Tensor:
        return router_logits(x_TX, self.weight)


class MoE(nn.Module):
    def __init__(self, config: ModelConfig, layer: int = 0):
        super().__init__()
        self.layer = layer
        self.top_k, self.jitter = config.num_experts_per_tok, config.router_jitter_noise
        self.gate = Router(config.hidden_size, config.num_local_experts)
        self.experts = Experts(config)

    @property
    def jitters(self) -> bool:
        return self.training and self.jitter > 0

    def jittered(self, x_TX: Tensor) -> Tensor:
        """The input with the router's noise.

        The released code multiplies in place: all that reads this input feels it, a post-norm residual too.
        """
        return x_TX * torch.empty_like(x_TX).uniform_(1 - self.jitter, 1 + self.jitter)

    def forward(
        self, x_TX: Tensor, routing: Routing | None = None, unrounded_TX: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Returns y [T, X] and the router logits [T, E] in float32 or better, of the rows unrounded if there are such.

        `routing` collects the choices or gives them; the router learns through their weights all the same.
        """
        logits_TE = self.gate(x_TX if unrounded_TX is None else unrounded_TX)
        parameters = self.experts.gate_up_proj, self.experts.down_proj
        if routing is not None:
            probs_TE = logits_TE.softmax(-1)
            expert_TK = routing.settle(self.layer, probs_TE.topk(self.top_k, dim=-1).indices)
            weight_TK = probs_TE.gather(-1, expert_TK)
            weight_TK = weight_TK / weight_TK.sum(-1, keepdim=True)
        elif (routed_TX := routed_experts(x_TX, logits_TE, self.top_k, *parameters)) is not None:
            return routed_TX, logits_TE
        else:
            weight_TK, expert_TK = top_experts(logits_TE, self.top_k)
        return self.experts(x_TX, expert_TK, weight_TK), logits_TE


class SharedExpert(nn.Module):
    """A dense SwiGLU beside the experts, where shared_intermediate_size > 0; the releases have none."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.gate_proj = Linear(config.hidden_size, config.shared_intermediate_size)
        self.up_proj = Linear(config.hidden_size, config.shared_intermediate_size)
        self.down_proj = Linear(config.shared_intermediate_size, config.hidden_size)

    def forward(self, x_TX: Tensor) -> Tensor:
        return self.down_proj(pointwise(F.silu, self.gate_proj(x_TX)) * self.up_proj(x_TX))


def load_balancing_loss(router_logits: list[Tensor], top_k: int) -> Tensor:
    """E * sum_e (share of the top-k choices)_e * (mean probability)_e over all layers' tokens; top_k when balanced.

    router_logits: [T, E] a layer. As the released code defines it, before the coefficient.
    """
    probs_NE = torch.cat(router_logits).softmax(-1)
    chosen_NKE = F.one_hot(probs_NE.topk(top_k, dim=-1).indices, probs_NE.shape[-1]).to(probs_NE.dtype)
    return probs_NE.shape[-1] * (chosen_NKE.mean(0) * probs_NE.mean(0)).sum()
