"""How long and how hard to train: the published recipes by name, and two for small images."""

from __future__ import annotations

import math
from dataclasses import dataclass

MOST_EPOCHS = 1_000_000


@dataclass(frozen=True)
class Recipe:
    """SGD with momentum; the learning rate climbs linearly for `warmup_epochs`, then follows a cosine to 0.

    The rate is another one at every step, where the authors' code changes it once an epoch. All images of an epoch are
    trained on, as there: the last step has what is left over (see batches.cut).

    Args:
        epochs: passes over the training images.
        batch_size: images of a step, all processes together.
        learning_rate: the highest.
        weight_decay: of every parameter, norms and biases included, as the authors do.
        momentum, nesterov: as for torch.optim.SGD.
        warmup_epochs: epochs, a fraction too, until the learning rate is at its highest.
        label_smoothing: as for torch.nn.functional.cross_entropy.
        ema_decay: of the exponential moving average of the weights, by step; None keeps no average. With one, the
            averaged network is what counts as the result.
        crop_padding: zeros around an in-memory image before an image of the old size is cut out at random, in pixels.
            Images of a folder are cut by RandomResizedCrop instead.
        flip: whether every other image, at random, is mirrored left to right.

    Raises:
        ValueError: a number is out of its range.
    """

    epochs: int
    batch_size: int
    learning_rate: float
    weight_decay: float
    momentum: float = 0.9
    nesterov: bool = False
    warmup_epochs: float = 0.0
    label_smoothing: float = 0.0
    ema_decay: float | None = None
    crop_padding: int = 4
    flip: bool = True

    def __post_init__(self) -> None:
        checks = {
            "epochs": (_is_whole(self.epochs, 1, MOST_EPOCHS), f"a whole number from 1 to {MOST_EPOCHS}"),
            "batch_size": (_is_whole(self.batch_size, 1), "a whole number, at least 1"),
            "learning_rate": (0 < self.learning_rate < math.inf, "a number more than 0"),
            "weight_decay": (0 <= self.weight_decay < math.inf, "a number, at least 0"),
            "momentum": (0 <= self.momentum < 1, "from 0 to below 1"),
            "warmup_epochs": (0 <= self.warmup_epochs <= self.epochs, f"from 0 to {self.epochs}, the epochs"),
            "label_smoothing": (0 <= self.label_smoothing < 1, "from 0 to below 1"),
            "ema_decay": (self.ema_decay is None or 0 < self.ema_decay < 1, "between 0 and 1"),
            "crop_padding": (_is_whole(self.crop_padding, 0), "a whole number, at least 0"),
        }
        for name, (right, expected) in checks.items():
            if not right:
                raise ValueError(f"{name}: expected {expected}, got {getattr(self, name)}")


def _is_whole(value: object, low: int, high: float = math.inf) -> bool:
    return isinstance(value, int) and low <= value <= high


# The first four are the authors' (README of their repository): ImageNet-1K, SGD of momentum 0.9, cosine.
RECIPES = {
    "resnet18": Recipe(epochs=90, batch_size=256, learning_rate=0.1, weight_decay=1e-4),
    "resnet50": Recipe(epochs=300, batch_size=256, learning_rate=0.1, weight_decay=1e-4, warmup_epochs=20),
    "mobilenet_v2": Recipe(epochs=150, batch_size=256, learning_rate=0.05, weight_decay=4e-5),
    "convnext_tiny": Recipe(epochs=150, batch_size=256, learning_rate=0.05, weight_decay=4e-5),
    "fashion_mnist": Recipe(
        epochs=15, batch_size=128, learning_rate=0.1, weight_decay=5e-4, nesterov=True, warmup_epochs=1, crop_padding=2
    ),
    "digits": Recipe(
        epochs=20,
        batch_size=32,
        learning_rate=0.02,
        weight_decay=5e-4,
        nesterov=True,
        warmup_epochs=1,
        crop_padding=2,
        flip=False,
    ),
}
