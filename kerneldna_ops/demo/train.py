"""Training and evaluation, the same for every network."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import SGD
from torch.optim.lr_scheduler import CosineAnnealingLR

from .data import Digits, Images
from .model import build

BATCH_SIZE = 32
LEARNING_RATE = 0.05
WEIGHT_DECAY = 5e-4


def make_optimizer(model: nn.Module) -> SGD:
    return SGD(model.parameters(), lr=LEARNING_RATE, momentum=0.9, nesterov=True, weight_decay=WEIGHT_DECAY)


def training_step(model: nn.Module, optimizer: SGD, images: Tensor, labels: Tensor) -> None:
    optimizer.zero_grad()
    F.cross_entropy(model(images), labels).backward()
    optimizer.step()


@torch.inference_mode()
def evaluate(model: nn.Module, part: Images) -> float:
    """The share of `part` that `model` classifies right, in percent."""
    model.eval()
    batches = zip(part.images.split(256), part.labels.split(256), strict=True)
    right = sum(int((model(images).argmax(1) == labels).sum()) for images, labels in batches)
    return 100 * right / len(part)


def steps_per_epoch(digits: Digits) -> int:
    """An incomplete last batch is left out: the order changes every epoch, and batch statistics want whole batches."""
    steps = len(digits.train) // BATCH_SIZE
    if steps == 0:
        raise ValueError(f"expected at least {BATCH_SIZE} training images, one batch, got {len(digits.train)}")
    return steps


@dataclass(frozen=True)
class Best:
    """The weights of the epoch that did best on the validation images."""

    epoch: int
    validation_accuracy: float
    state: dict[str, Tensor]


class Training:
    """One run of a variant: `epochs` passes over the training images, cosine schedule. The seed gives the initial
    weights and the order of the images.

    `best` is kept up as it goes, so it is there even if `run` is cut short; None until the first epoch is through.
    """

    def __init__(self, variant: str, seed: int, digits: Digits, epochs: int) -> None:
        self.variant = variant
        self.seed = seed
        self.digits = digits
        self.epochs = epochs
        self.model = build(variant, seed)
        self.started = perf_counter()
        self.best: Best | None = None

    def run(self, on_step: Callable[[], object]) -> Best:
        """Train, calling `on_step` after every step. What it raises, KeyboardInterrupt too, ends the run and passes."""
        steps = steps_per_epoch(self.digits)
        optimizer = make_optimizer(self.model)
        schedule = CosineAnnealingLR(optimizer, self.epochs * steps)
        order = torch.Generator().manual_seed(self.seed)
        train = self.digits.train
        for epoch in range(1, self.epochs + 1):
            self.model.train()
            for chosen in torch.randperm(len(train), generator=order).split(BATCH_SIZE)[:steps]:
                training_step(self.model, optimizer, train.images[chosen], train.labels[chosen])
                schedule.step()
                on_step()
            self.best = self._better(epoch)
        if self.best is None:
            raise ValueError(f"epochs: expected at least 1, got {self.epochs}")
        return self.best

    def _better(self, epoch: int) -> Best:
        """The best so far or what stands now; of equals what stands now, which has seen more."""
        accuracy = evaluate(self.model, self.digits.validation)
        if self.best is not None and self.best.validation_accuracy > accuracy:
            return self.best
        return Best(epoch, accuracy, {name: value.clone() for name, value in self.model.state_dict().items()})
