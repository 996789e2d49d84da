"""Kernels, and the learner made of them, against their peers on the device found: `python -m tests.benchmarks.kernels`.

flash-linear-attention and Liger are optional; without one its columns stay empty.
"""

from __future__ import annotations

import torch

from tests.benchmarks import experts, head, learner, lightning, softmax


def main() -> None:
    if not torch.cuda.is_available():
        print("no GPU here: nothing measured")
        return
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}")
    for part in (lightning, head, softmax, experts):
        part.main()
        torch.cuda.empty_cache()
    learner.main([])


if __name__ == "__main__":
    main()
