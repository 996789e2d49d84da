"""What all tests share: no network, no usage reports, the same examples every time."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import settings

from tests.train.cluster.nodes import two_nodes

__all__ = ["ROOT", "shared", "two_nodes"]

ROOT = Path(__file__).parents[1]

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # read as kernels are defined, so before any is imported

os.environ.update(
    HF_HUB_OFFLINE="1",
    TOKENIZERS_PARALLELISM="false",
    RAY_USAGE_STATS_ENABLED="0",
    WANDB_SILENT="true",
)
if workers := int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", 0)):
    # Threads that wait for one another at every small operation come to a standstill beside others' threads.
    threads = max(1, len(os.sched_getaffinity(0)) // workers)
    os.environ["OMP_NUM_THREADS"] = str(threads)
    torch.set_num_threads(threads)

settings.register_profile("tests", deadline=None, derandomize=True)
settings.load_profile("tests")


@pytest.fixture(scope="session")
def shared() -> Path:
    """Material beside the repository; tests that read it are skipped where there is none."""
    folder = ROOT.parent / "shared"
    if not folder.is_dir():
        pytest.skip("../shared is absent")
    return folder


# Most of the tests that start Ray, the longest ones: one after another in one process, beside all others in the second.
_LONG = (
    "tests/train/cluster/",
    "tests/train/test_end_to_end",
    "tests/train/test_user_paths",
    "tests/train/test_learner",
    "tests/train/test_partitions",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The long ones come first."""
    items.sort(key=lambda item: not item.nodeid.startswith(_LONG))


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """For `--numprocesses`: a file stays together, and so do the long ones."""
    from xdist.scheduler import LoadScopeScheduling

    class ByFile(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return "long" if nodeid.startswith(_LONG) else nodeid.split("::")[0]

    return ByFile(config, log)
