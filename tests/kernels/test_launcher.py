"""Launching: what Triton would compile anew is launched by Triton, all else goes straight to the driver's launcher."""

from __future__ import annotations

import ast
import random
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.backends.nvidia.compiler import CUDABackend
from triton.runtime.jit import JITFunction, create_function_from_signature
from triton.tools.tensor_descriptor import TensorDescriptor

from lightning_cispo.kernels import launcher
from lightning_cispo.kernels.launcher import Launched, launched


def _kernel(x_ptr, y_ptr, rows, scale, wide, BLOCK: tl.constexpr, GATE: tl.constexpr = False):
    tl.store(y_ptr, tl.load(x_ptr) * scale + rows + wide + BLOCK)


def _backward(BLOCK: tl.constexpr, x_ptr):
    tl.store(x_ptr, BLOCK)


class Device:
    """In place of Triton's driver: its launches and ours, and the device that is current."""

    def __init__(self, monkeypatch):
        self.current, self.firsts, self.launches = 0, [], []
        active = SimpleNamespace(get_current_device=lambda: self.current, get_current_stream=lambda device: 70 + device)
        monkeypatch.setattr(launcher, "driver", SimpleNamespace(active=active))
        monkeypatch.setattr(JITFunction, "run", self.first)

    def first(self, *arguments, grid, warmup, **constants):
        self.firsts.append((grid, arguments, constants))
        number = len(self.firsts)
        return SimpleNamespace(
            run=lambda *given: self.launches.append(given), function=f"code {number}", packed_metadata="packed"
        )


@pytest.fixture
def device(monkeypatch) -> Device:
    return Device(monkeypatch)


def test_the_second_launch_of_a_kind_passes_addresses_and_constants_in_order(device):
    kernel = Launched(JITFunction(_kernel))
    x, y = torch.zeros(4), torch.zeros(4)
    kernel[(3, 2)](x, y, 7, 0.5, None, BLOCK=16, num_warps=8)
    assert device.firsts == [((3, 2), (x, y, 7, 0.5, None), {"BLOCK": 16, "num_warps": 8})] and not device.launches
    z = torch.ones(4)
    kernel[(5,)](y, z, 9, 2.5, None, BLOCK=16, num_warps=8)
    assert len(device.firsts) == 1
    hooks = (None, None, None)
    arguments = (y.data_ptr(), z.data_ptr(), 9, 2.5, None, 16, False)
    assert device.launches == [(5, 1, 1, 70, "code 1", "packed", *hooks, *arguments)]


def test_constants_options_and_devices_are_kinds_of_their_own(device):
    kernel, x = Launched(JITFunction(_kernel)), torch.zeros(4)
    kinds = [{"BLOCK": 16}, {"BLOCK": 32}, {"BLOCK": 16, "GATE": True}, {"BLOCK": 16, "num_warps": 2}]
    kinds += [{"BLOCK": 16, "num_warps": 1}, {"BLOCK": 16, "num_stages": 1}, {"BLOCK": 2, "num_warps": 16}]
    for _ in range(2):
        for device.current in (0, 1):
            for constants in kinds:
                kernel[(1,)](x, x, 7, 0.5, 3, **constants)
    assert len(device.firsts) == len(device.launches) == 2 * len(kinds)


def argument(pick: random.Random):
    kind = pick.randrange(4)
    if kind == 0:
        return torch.zeros(40, dtype=pick.choice([torch.float32, torch.bfloat16, torch.int64]))[
            pick.choice([0, 1, 8]) :
        ]
    if kind == 1:
        return pick.choice([0, 1, 2, 16, 17, -1, -16, 2**31 - 1, 2**31, 2**31 + 1, -(2**31) - 16, 2**40, 2**62])
    if kind == 2:
        rows = torch.zeros(16, 64, dtype=pick.choice([torch.float32, torch.bfloat16]))
        return TensorDescriptor.from_tensor(rows, [pick.choice([8, 16]), pick.choice([16, 32])])
    return pick.choice([None, 1.0, 0.5])


def test_triton_launches_whatever_it_would_compile_anew(device):
    """Against Triton's own account of what compiled code depends on."""
    plain = JITFunction(_kernel)
    account = create_function_from_signature(plain.signature, plain.params, CUDABackend(GPUTarget("cuda", 90, 32)))
    kernel, pick = Launched(plain), random.Random(0)
    compiled: dict[str, str] = {}
    common = [argument(pick) for _ in range(5)]
    for turn in range(2000):
        arguments, constants = list(common), {"BLOCK": pick.choice([16, 32])}
        arguments[turn % 5], arguments[turn % 3] = argument(pick), argument(pick)
        wanted = str(account(*arguments, **constants)[1])
        before = len(device.launches)
        kernel[(1,)](*arguments, **constants)
        code = f"code {len(device.firsts)}" if len(device.launches) == before else device.launches[-1][4]
        compiled.setdefault(code, wanted)
        assert compiled[code] == wanted, arguments
    assert len(device.launches) > 200 and len(set(compiled.values())) > 200


def test_what_does_not_fit_is_refused(device):
    kernel, x = Launched(JITFunction(_kernel)), torch.zeros(4)
    with pytest.raises(TypeError, match="_kernel takes 5 arguments, not 6"):
        kernel[(1,)](x, x, 1, 0.5, 3, 16)
    with pytest.raises(TypeError, match="_kernel: an argument is list"):
        kernel[(1,)](x, x, [1], 0.5, 3, BLOCK=16)
    with pytest.raises(ValueError, match="_backward: constexprs come after the arguments"):
        Launched(JITFunction(_backward))


def test_no_kernel_calls_one_that_is_launched():
    """Triton compiles calls of its own functions alone."""
    trees = [ast.parse(path.read_text()) for path in Path(launcher.__file__).parent.rglob("*.py")]
    functions = [
        (node, [ast.unparse(decorator) for decorator in node.decorator_list])
        for tree in trees
        for node in tree.body
        if isinstance(node, ast.FunctionDef)
    ]
    names = {node.name for node, decorators in functions if "launched" in decorators}
    names |= {
        ast.unparse(node.targets[0])
        for tree in trees
        for node in tree.body
        if isinstance(node, ast.Assign) and ast.unparse(node.value).startswith("launched(")
    }
    called = {
        (node.name, inner.id)
        for node, decorators in functions
        if any("triton.jit" in decorator for decorator in decorators)
        for inner in ast.walk(node)
        if isinstance(inner, ast.Name) and inner.id in names
    }
    assert len(names) > 20 and not called


def test_what_is_no_compiled_kernel_stays_as_it_is():
    assert launched(_kernel) is _kernel
    assert isinstance(launched(JITFunction(_kernel)), Launched)
