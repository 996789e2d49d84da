"""The kernels in C, compiled where they run: with the machine's own compiler, for its own processor."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import logging
import os
import platform
import shlex
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import torch

SOURCES = Path(__file__).parent / "c"
# Contraction makes every product with a sum one rounding, in all variants of a loop alike.
_FLAGS = ["-O3", "-march=native", "-std=gnu11", "-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math", "-fPIC"]


@functools.cache
def library() -> ctypes.CDLL | None:
    """All of `kernels/c` as one library; None, with a warning, where it can't be had.

    It is compiled once for each source, compiler and processor, and kept in the user's cache.
    """
    try:
        compiler = shlex.split(os.environ.get("CC", "cc"))
        version = subprocess.run([*compiler, "--version"], capture_output=True, check=True).stdout
        folder = _cache()
        try:
            return _built(compiler, ["-fopenmp"], version, folder)
        except OSError:  # a compiler whose threads are not those of torch's OpenMP
            return _built(compiler, ["-fopenmp-simd"], version, folder)
    except (OSError, subprocess.CalledProcessError) as error:
        said = (getattr(error, "stderr", None) or str(error).encode()).decode(errors="replace")
        reason = said.strip().splitlines()[0]
        logging.getLogger(__name__).warning(f"no native CPU kernels, torch's take several times as long: {reason}")
        return None


def _built(compiler: list[str], threads: list[str], version: bytes, folder: Path) -> ctypes.CDLL:
    texts = [path.read_bytes() for path in sorted(SOURCES.glob("*.[ch]"))]
    key = hashlib.sha256(b"\0".join([*texts, version, _processor(), *map(str.encode, [*_FLAGS, *threads])]))
    target = folder / f"{key.hexdigest()[:32]}.so"
    if not target.exists():
        with tempfile.TemporaryDirectory(dir=folder) as aside:  # renamed when whole: others may be at it too
            for source in SOURCES.glob("*.c"):
                _run(*compiler, *_FLAGS, *threads, "-c", str(source), "-o", f"{aside}/{source.stem}.o")
            objects = [str(path) for path in Path(aside).glob("*.o")]
            # OpenMP's library is left out: torch has loaded one, and two pools of threads would be in each other's way.
            _run(*compiler, "-shared", "-Wl,-Bsymbolic", *objects, "-lm", "-o", f"{aside}/whole.so")
            os.replace(f"{aside}/whole.so", target)
    return ctypes.CDLL(str(target))


def _run(*command: str) -> None:
    subprocess.run(command, capture_output=True, check=True)


def _cache() -> Path:
    """A folder of this user's, or else of this process's."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    folder = Path(base) / "lightning-cispo"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if os.access(folder, os.W_OK) and folder.stat().st_uid == os.getuid():
            return folder
    except OSError:
        pass
    return Path(tempfile.mkdtemp(prefix="lightning-cispo-"))


def _processor() -> bytes:
    """What -march=native depends on."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = ("model name", "flags", "Features", "CPU part")
    found = {line.split(":")[0].strip(): line for line in lines if line.startswith(names)}
    return "\n".join([platform.machine(), *found.values()]).encode()


def call(name: str, *arguments: Any) -> None:
    """A function of the library: of tensors and structures their addresses, the number of threads added."""
    found = library()
    assert found is not None, "asked for where there is no library"
    getattr(found, name)(*map(_argument, arguments), ctypes.c_int64(torch.get_num_threads()))


def _argument(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return ctypes.c_void_p(value.data_ptr())
    if isinstance(value, int):
        return ctypes.c_int64(value)
    if isinstance(value, float):
        return ctypes.c_float(value)
    return ctypes.byref(value) if isinstance(value, (ctypes.Structure, ctypes.Array)) else value


def serves(*tensors: torch.Tensor) -> bool:
    """Whether tensors are what these kernels take: float32 on the CPU."""
    return all(x.dtype == torch.float32 and x.device.type == "cpu" for x in tensors) and library() is not None
