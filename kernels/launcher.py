"""Launching Triton kernels with little work on the host.

Triton's own launch binds the arguments to the signature, asks of each what the compiled code depends on, writes all of
that out as a string and looks it up: 35 us for twenty arguments, where the launch itself takes five. A pass through a
network makes hundreds of launches. Here the same questions are put to the arguments in one loop.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor
from triton.runtime import driver
from triton.runtime.jit import JITFunction
from triton.tools.tensor_descriptor import TensorDescriptor


def ceil_div(a: int, b: int) -> int:
    """Rounded up. Triton's own `cdiv` costs the host ten times as much, and so does its `next_power_of_2`."""
    return -(-a // b)


def power_of_2(least: int) -> int:
    """The smallest that is not below `least`, which is at least 1."""
    return 1 << (least - 1).bit_length()


def launched(kernel: Any) -> Any:
    """Decorates a `triton.jit` kernel that is launched from the host; in Triton's interpreter it changes nothing."""
    return Launched(kernel) if isinstance(kernel, JITFunction) else kernel


class Launched:
    """`kernel[grid](*arguments, **constants)`, as with Triton: arguments in the signature's order, then by name all of
    its constexprs that have no default, and options of the launch. Constants are whole numbers, bools or strings.

    The first launch of a kind is Triton's own and compiles; the compiled kernel is kept under everything that Triton
    compiles anew for: device, dtypes, whether addresses and numbers are multiples of 16, numbers that are 1 or wide,
    the blocks of descriptors, constants. Hooks on launches see first launches only.
    """

    def __init__(self, kernel: JITFunction):
        free = [name for name, param in zip(kernel.arg_names, kernel.params, strict=True) if not param.is_constexpr]
        if kernel.arg_names[: len(free)] != free:
            raise ValueError(f"{kernel.__name__}: constexprs come after the arguments")
        self.kernel, self._arguments = kernel, len(free)
        self._ready: dict[tuple[Any, ...], tuple[Any, ...]] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self.kernel, name)

    def __getitem__(self, grid: tuple[int, ...]) -> Any:
        return lambda *arguments, **constants: self._launch(grid, arguments, constants)

    def _launch(self, grid: tuple[int, ...], arguments: tuple[Any, ...], constants: dict[str, Any]) -> None:
        device = driver.active.get_current_device()
        key, given = [device, *constants, *constants.values()], []
        for x in arguments:
            kind = type(x)
            if kind is int:
                key.append(1 if x == 1 else 2 + (x % 16 == 0) + (x >> 31 << 2))
            elif kind is float or x is None:
                key.append(kind)
            elif kind is TensorDescriptor:
                key += x.base.dtype, *x.block_shape
            elif isinstance(x, Tensor):
                key.append(x.dtype)
                x = x.data_ptr()
                key.append(x % 16 == 0)
            else:
                raise TypeError(f"{self.kernel.__name__}: an argument is {kind.__name__}")
            given.append(x)
        if (ready := self._ready.get(tuple(key))) is None:
            self._ready[tuple(key)] = self._first(grid, arguments, constants)
            return
        run, function, metadata, rest = ready
        stream = driver.active.get_current_stream(device)
        run(*grid, *(1, 1, 1)[len(grid) :], stream, function, metadata, None, None, None, *given, *rest)

    def _first(self, grid: tuple[int, ...], arguments: tuple[Any, ...], constants: dict[str, Any]) -> tuple[Any, ...]:
        """Launches as Triton does; returns what launching again takes."""
        if len(arguments) != self._arguments:
            raise TypeError(f"{self.kernel.__name__} takes {self._arguments} arguments, not {len(arguments)}")
        compiled: Any = self.kernel[grid](*arguments, **constants)
        rest = [constants.get(param.name, param.default) for param in self.kernel.params[self._arguments :]]
        return compiled.run, compiled.function, compiled.packed_metadata, rest
