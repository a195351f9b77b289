"""Peak memory of a training step, as the operating system sees it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import torch
from torch import nn

from .data import SIDE
from .model import CLASSES, build
from .train import make_optimizer, training_step

STATUS = Path("/proc/self/status")


def peak_training_memory(variant: str, batch_size: int, threads: int) -> float | None:
    """MiB of resident memory that training steps of `batch_size` images add at their highest; None without /proc.

    Taken in a process of its own, above what a step of two images has left there, so that torch, its code and the
    weights are not in it; everything that the step allocates is, scratch memory of the kernels included. The C library
    is told to give every large block back at once (MALLOC_MMAP_THRESHOLD_), or its reserves would be counted as need.
    """
    if not STATUS.exists():
        return None
    # A session of its own: Ctrl-C reaches the parent alone, which then ends this one.
    process = subprocess.run(
        [sys.executable, "-m", __name__, variant, str(batch_size), str(threads)],
        env=os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536"},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        start_new_session=True,
    )
    return float(process.stdout)


def _peak_mib() -> float:
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) / 1024


def _steps(model: nn.Module, batch_size: int, count: int) -> None:
    optimizer = make_optimizer(model)
    images = torch.zeros(batch_size, 1, SIDE, SIDE)
    labels = torch.arange(batch_size) % CLASSES
    for _ in range(count):
        training_step(model, optimizer, images, labels)


if __name__ == "__main__":
    variant, batch_size, threads = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    torch.set_num_threads(threads)
    model = build(variant, seed=0)
    _steps(model, batch_size=2, count=1)
    before = _peak_mib()
    _steps(model, batch_size, count=3)
    print(_peak_mib() - before)
