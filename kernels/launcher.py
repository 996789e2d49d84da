"""Launching Triton kernels with little work on the host.

Triton's own launch binds the arguments to the signature, asks of each what the compiled code depends on, writes all of
that out as a string and looks it up: 35 us for twenty arguments, where the launch itself takes five. A pass through a
network makes hundreds of launches. Here the same questions are put to the arguments by a function written for their
types.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
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


def blocks_of(x: Tensor, *block: int) -> TensorDescriptor:
    """`TensorDescriptor.from_tensor(x, block)` of a contiguous tensor whose rows are of whole 16 bytes, without its
    looking into that. Raises ValueError where x begins elsewhere than at 16 bytes."""
    if x.data_ptr() % 16:
        raise ValueError(f"a tensor {list(x.shape)} in {x.dtype} begins at {x.data_ptr()}: must be a multiple of 16")
    made = TensorDescriptor.__new__(TensorDescriptor)
    made.base, made.shape, made.strides, made.block_shape, made.padding = x, x.shape, x.stride(), block, "zero"
    return made


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
        self._readers: dict[tuple[type, ...], Callable[..., tuple[Any, Any]]] = {}
        self._ready: dict[tuple[Any, ...], tuple[Any, ...]] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self.kernel, name)

    def __getitem__(self, grid: tuple[int, ...]) -> Any:
        return partial(self._launch, grid)

    def _launch(self, grid: tuple[int, ...], *arguments: Any, **constants: Any) -> None:
        types = tuple(map(type, arguments))
        read = self._readers.get(types) or self._readers.setdefault(types, _reader(self.kernel.__name__, types))
        kind, given = read(*arguments)
        device = driver.active.get_current_device()
        key = (device, types, kind, *constants, *constants.values())
        if (ready := self._ready.get(key)) is None:
            self._ready[key] = self._first(grid, arguments, constants)
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


def _reader(kernel: str, types: tuple[type, ...]) -> Callable[..., tuple[Any, Any]]:
    """Of arguments of these types: what compiled code depends on, and what is passed to it, addresses for tensors.

    Written out, as a loop over twenty arguments that asks each for its type takes twice as long.
    """
    names = [f"a{i}" for i in range(len(types))]
    kinds, given, lines, addresses = [], list(names), [], []
    for i, (name, kind) in enumerate(zip(names, types, strict=True)):
        if kind is int:
            kinds.append(f"1 if {name} == 1 else 2 + ({name} % 16 == 0) + ({name} >> 31 << 2)")
        elif kind is TensorDescriptor:
            kinds += f"{name}.base.dtype", f"*{name}.block_shape"
        elif issubclass(kind, Tensor):
            lines.append(f"p{i} = {name}.data_ptr()")
            kinds.append(f"{name}.dtype")
            addresses.append(f"p{i}")
            given[i] = f"p{i}"
        elif kind is not float and kind is not type(None):
            raise TypeError(f"{kernel}: an argument is {kind.__name__}")
    if addresses:  # nearly always all of them are multiples of 16
        apart = ", ".join(f"{address} % 16 == 0" for address in addresses)
        kinds.append(f"({apart},) if ({' | '.join(addresses)}) % 16 else None")
    body = [*lines, f"return ({''.join(f'{kind}, ' for kind in kinds)}), ({''.join(f'{name}, ' for name in given)})"]
    scope: dict[str, Any] = {}
    exec(f"def read({', '.join(names)}):\n    " + "\n    ".join(body), scope)
    return scope["read"]
