"""What the fixtures don't reach: slopes, pre-norm, the shared expert, jitter, the auxiliary loss, memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F

from lightning_cispo.configs.schema import ModelConfig
from lightning_cispo.model.attention import alibi_slopes, layer_slopes
from lightning_cispo.model.checkpoint import save
from lightning_cispo.model.layout import parameter_shapes
from lightning_cispo.model.moe import load_balancing_loss
from lightning_cispo.model.network import MiniMax
from tests.model.oracle import worst

SMALL = dict(vocab_size=61, hidden_size=32, intermediate_size=24, num_hidden_layers=4, head_dim=16, softmax_every=4)
BORDERS = torch.tensor([0, 17, 18, 50])


def small(**changes) -> MiniMax:
    config = ModelConfig(**{**SMALL, "num_attention_heads": 2, "num_key_value_heads": 1, **changes})
    return MiniMax(config, compute_dtype=torch.float64).double().initialize(seed=1)


def tokens(seed: int = 0) -> torch.Tensor:
    return torch.randint(61, (50,), generator=torch.Generator().manual_seed(seed))


def test_slopes_of_powers_of_two_and_between():
    assert alibi_slopes(4) == [2**-2, 2**-4, 2**-6, 2**-8]
    # 6 heads: those of 4, then the 1st and 3rd of 8.
    assert alibi_slopes(6) == [2**-2, 2**-4, 2**-6, 2**-8, 2**-1, 2**-3]


def test_slopes_of_the_release_span_their_range():
    cpu = torch.device("cpu")
    first, last = layer_slopes(64, 0, 80, cpu), layer_slopes(64, 78, 80, cpu)
    assert first[0].item() == pytest.approx(0.917, abs=1e-3)
    assert last[-1].item() == pytest.approx(4.95e-5, rel=1e-3)
    assert layer_slopes(64, 79, 80, cpu)[0].item() == pytest.approx(alibi_slopes(64)[0] * 1e-5)
    assert layer_slopes(2, 0, 1, cpu)[0].item() == pytest.approx(2**-4 * (1 + 1e-5))  # one layer divides by nothing


@pytest.mark.parametrize(
    "changes",
    [
        {"postnorm": False},
        {"shared_intermediate_size": 20},
        {"num_attention_heads": 3, "num_key_value_heads": 3},
        {"tie_word_embeddings": True},
        {"attn_type_list": [1, 1, 1, 1]},
        {"attn_type_list": [0, 0, 0, 0]},
    ],
    ids=str,
)
def test_other_shapes_have_the_listed_parameters_and_a_right_gradient(changes):
    network = small(**changes)
    assert {n: tuple(p.shape) for n, p in network.named_parameters()} == parameter_shapes(network.config)
    row = tokens()

    def loss() -> torch.Tensor:
        return network.logprobs(row, BORDERS)[0].sum()

    loss().backward()
    generator = torch.Generator().manual_seed(3)
    for name, parameter in network.named_parameters():
        direction = torch.randn(parameter.shape, dtype=torch.float64, generator=generator)
        direction /= direction.norm()
        slope = (parameter.grad * direction).sum().item()
        step = 1e-5
        values = []
        for sign in (1, -1):
            with torch.no_grad():
                parameter.add_(direction, alpha=sign * step)
                values.append(loss().item())
                parameter.sub_(direction, alpha=sign * step)
        measured = (values[0] - values[1]) / (2 * step)
        assert measured == pytest.approx(slope, rel=1e-4, abs=1e-6), name


def test_prenorm_and_shared_expert_as_the_released_code_defines_them():
    """One layer recomputed by hand from its sublayers."""
    network = small(postnorm=False, shared_intermediate_size=20, layernorm_mlp_beta=0.7)
    layer, config = network.model.layers[0], network.config
    seen = {}
    layer.self_attn.register_forward_hook(lambda m, a, out: seen.update(attention=out))
    layer.mlp.register_forward_hook(lambda m, a, out: seen.update(moe=out[0]))
    inputs = {}
    network.model.layers[0].register_forward_pre_hook(lambda m, a: inputs.update(x=a[0]))
    layer.register_forward_hook(lambda m, a, out: seen.update(out=out[0]))
    with torch.no_grad():
        network(tokens(), BORDERS)
        x = inputs["x"]
        middle = x * config.attention_alpha(0) + seen["attention"]
        normed = F.rms_norm(middle, (32,), layer.post_attention_layernorm.weight, 1e-5)
        shared = layer.shared_mlp
        gate, up = normed @ shared.gate_proj.weight.T, normed @ shared.up_proj.weight.T
        dense = (F.silu(gate) * up) @ shared.down_proj.weight.T
        c = torch.sigmoid(normed @ layer.coefficient.weight.T)
        wanted = middle * config.mlp_alpha + 0.7 * (seen["moe"] * (1 - c) + dense * c)
    assert worst(seen["out"], wanted) < 1e-12


def test_jitter_only_while_training():
    network = small(router_jitter_noise=0.3)
    with torch.no_grad():
        quiet = network.eval()(tokens(), BORDERS).hidden_TX
        assert torch.equal(network(tokens(), BORDERS).hidden_TX, quiet)
        noisy = network.train()(tokens(), BORDERS).hidden_TX
    assert not torch.equal(noisy, quiet)


def test_jitter_is_that_of_the_original_in_transformers(tmp_path):
    """The same noise from the same seed: the in-place product reaches the residual too."""
    from transformers import AutoModelForCausalLM

    config = ModelConfig(**SMALL, num_attention_heads=2, num_key_value_heads=1, router_jitter_noise=0.3)
    ours = MiniMax(config).initialize(seed=1).train()
    save(tmp_path / "saved", config, ours.named_parameters())
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "saved", attn_implementation="eager").train()
    row = tokens()
    with torch.no_grad():
        torch.manual_seed(4)
        wanted = theirs(row[None], use_cache=False).logits[0]
        torch.manual_seed(4)
        logits = ours.lm_head(ours(row, torch.tensor([0, 50])).hidden_TX)
    assert worst(logits, wanted) < 1e-5


def test_auxiliary_loss_is_top_k_when_balanced_and_more_when_not():
    experts, tokens_ = 8, 64
    balanced = torch.zeros(tokens_, experts, dtype=torch.float64)
    balanced[torch.arange(tokens_), torch.arange(tokens_) % experts] = 1e-6
    balanced[torch.arange(tokens_), (torch.arange(tokens_) + 1) % experts] = 1e-6
    assert load_balancing_loss([balanced], top_k=2).item() == pytest.approx(2.0, rel=1e-5)
    lopsided = torch.zeros(tokens_, experts, dtype=torch.float64)
    lopsided[:, :2] = 20.0
    assert load_balancing_loss([lopsided], top_k=2).item() == pytest.approx(8.0, rel=1e-4)


def test_auxiliary_loss_equals_transformers():
    from transformers.models.minimax.modeling_minimax import load_balancing_loss_func

    generator = torch.Generator().manual_seed(0)
    logits = [torch.randn(50, 8, generator=generator) for _ in range(3)]
    theirs = load_balancing_loss_func(tuple(logits), num_experts=8, top_k=2)
    assert load_balancing_loss(logits, 2).item() == pytest.approx(float(theirs), rel=1e-5)


def test_contradictory_shape_is_refused():
    with pytest.raises(ValueError, match="num_key_value_heads=3: must divide num_attention_heads=4"):
        MiniMax(ModelConfig(num_key_value_heads=3))


def saved_bytes(network: MiniMax, length: int) -> int:
    """What a forward pass over one sequence keeps for the backward pass, parameters aside."""
    parameters = {p.untyped_storage().data_ptr() for p in network.parameters()}
    kept = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            kept[storage.data_ptr()] = tensor  # held, so that no address is used twice
        return tensor

    row = torch.zeros(length, dtype=torch.long)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        network.logprobs(row, torch.tensor([0, length]))
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


def test_activation_checkpointing_keeps_little_and_linearly_much():
    network = small(softmax_every=2)
    everything = saved_bytes(network, 512)
    network.checkpoint_activations = True
    short, long = saved_bytes(network, 512), saved_bytes(network, 1024)
    assert short < everything / 10
    assert 1.9 < long / short < 2.1


_MEMORY = """
import json, re, sys, torch
from pathlib import Path
from lightning_cispo.configs.schema import ModelConfig
from lightning_cispo.model.network import MiniMax
torch.set_num_threads(1)
network = MiniMax(ModelConfig(num_hidden_layers=1, softmax_every=int(sys.argv[1]), vocab_size=64)).initialize(0)
network.checkpoint_activations = True
def peak(length):
    network.zero_grad()
    network.logprobs(torch.zeros(length, dtype=torch.long), torch.tensor([0, length]))[0].sum().backward()
    # Not getrusage: its maximum includes what the process that forked this one held.
    return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
print(json.dumps([peak(n) for n in (4096, 8192, 16384)]))
"""


@pytest.mark.parametrize("softmax_every", [1, 2], ids=["softmax", "lightning"])
def test_training_memory_of_a_layer_grows_linearly_with_length(softmax_every):
    command = [sys.executable, "-c", _MEMORY, str(softmax_every)]
    # What is freed goes back at once, and there is one thread: the maximum is what was needed, on a busy machine too.
    quiet = {"OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": "65536"}
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300, env={**os.environ, **quiet})
    first, second, third = json.loads(done.stdout)
    assert second - first > 10_000  # KiB: the lengths are large enough to be seen
    assert (third - second) / (second - first) < 2.5  # 2 when linear, 4 when quadratic
