"""What this machine can carry: refused here, instead of by the kernel minutes later."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from lightning_cispo.configs.schema import ModelConfig, RunConfig
from lightning_cispo.model.sizes import count_parameters, state_bytes, training_bytes

_THREADS_A_CORE = 4
_CGROUP_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


def beyond_machine(config: RunConfig, model: ModelConfig, trains: bool) -> Iterator[str]:
    """One line for each setting that this machine is too small for; lower bounds of what is needed count.

    Where there are GPUs these hold weights and states, and the engine looks at their memory itself.
    """
    from lightning_cispo.train.cluster.session import available_cores

    cores, memory = available_cores(), machine_memory()
    for key, threads in (("learner.threads", config.learner.threads), ("rollout.threads", config.rollout.threads)):
        if threads > _THREADS_A_CORE * cores:
            yield f"{key}={threads}: must be at most {_THREADS_A_CORE * cores}, as this machine has {cores} cores"
    store = config.cluster.object_store_mb
    if store << 20 > memory:
        yield f"cluster.object_store_mb={store}: must be below the {_size(memory)} of memory here"
    if has_gpu():
        return
    weights, state = 4 * count_parameters(model).total, state_bytes(model)
    room = memory // max(1, config.rollout.workers) - weights
    if config.rollout.slots * state > room:
        most = f"; at most {room // state} fit" if state and room > state else ""
        yield (
            f"rollout.slots={config.rollout.slots}: {config.rollout.workers} workers' weights of {_size(weights)} and "
            f"states of {_size(state)} a slot exceed the {_size(memory)} of memory here{most}"
        )
    ranks = config.learner.world_size or 2
    need = training_bytes(model, ranks, config.learner.zero_stage).total * ranks if trains else 0
    if need > memory:
        yield (
            f"learner.world_size={ranks}: parameters, gradients and optimizer take {_size(need)}, which exceeds the "
            f"{_size(memory)} of memory here"
        )


def has_gpu() -> bool:
    """Whether the system has a device file of a GPU, which is told without loading torch."""
    return any(next(Path("/dev").glob(name), None) for name in ("nvidia[0-9]*", "dxg", "kfd"))


def machine_memory() -> int:
    """Bytes of memory that this process may use: the machine's, or its container's limit."""
    import psutil

    found = [psutil.virtual_memory().total]
    for path in map(Path, _CGROUP_LIMITS):
        if path.is_file() and (text := path.read_text().strip()).isdigit():
            found.append(int(text))
    return min(found)


def _size(count: float) -> str:
    for unit, size in (("TiB", 2**40), ("GiB", 2**30)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count / 2**20:.1f} MiB"
