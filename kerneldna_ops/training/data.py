"""Labelled images to train and validate on; sources.py opens them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

MOST_PIXELS = 16_384  # a side of an image; more is a slip of the keyboard


class DataError(ValueError):
    """What is wrong with a data set, in one sentence that names the file or the folder."""


@dataclass(frozen=True)
class Augmentation:
    """How to change training images: what comes out depends on `seed`, `epoch` and each image's index alone, so not
    on batches, workers or processes. `crop_padding` and `flip` as in recipes.Recipe."""

    seed: int
    epoch: int
    crop_padding: int
    flip: bool


class Split(Protocol):
    """One part of a data set: in memory (in_memory.py) or in files (folders.py)."""

    def __len__(self) -> int: ...

    def load(self, indices: Tensor, augmentation: Augmentation | None = None) -> tuple[Tensor, Tensor]:
        """Images [n, channels, image_size, image_size] float32, normalised, and labels [n] int64, of `indices` [n]."""


@dataclass(frozen=True)
class Data:
    """Weights are fitted to `train`; accuracy is measured on `validation`. `name` is the source, without its folder."""

    name: str
    train: Split
    validation: Split
    class_names: tuple[str, ...]
    channels: int
    image_size: int

    @property
    def classes(self) -> int:
        return len(self.class_names)

    def describe(self) -> dict[str, Any]:
        """What tells this data set from others, in plain values."""
        return {
            "name": self.name,
            "classes": list(self.class_names),
            "channels": self.channels,
            "image_size": self.image_size,
            "train": len(self.train),
            "validation": len(self.validation),
        }
