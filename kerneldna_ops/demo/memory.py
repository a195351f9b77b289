"""Peak memory of a training step."""

from __future__ import annotations

import sys

import torch
from torch import nn

from .._peak_memory import highest_during, of_a_process
from .data import SIDE
from .model import CLASSES, build
from .train import make_optimizer, training_step


def peak_training_memory(variant: str, batch_size: int, threads: int) -> float | None:
    """MiB of resident memory that training steps of `batch_size` images add at their highest; None without /proc.

    Above what is resident after a step of two images in its process, so that torch and the weights are not in it.
    """
    return of_a_process(__name__, variant, str(batch_size), str(threads))


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
    print(highest_during(lambda: _steps(model, batch_size, count=3)))
