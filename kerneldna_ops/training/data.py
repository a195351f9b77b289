"""Labelled images to train and validate on, named by one string."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
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


def open_data(spec: str, image_size: int | None = None) -> Data:
    """The data set that `spec` names; nothing is downloaded.

    Args:
        spec: one of
            "digits": the 1797 digits inside scikit-learn, half of them for validation; 1 channel, enlarged to 32x32.
            a folder with the four idx files of MNIST, Fashion-MNIST and their like, plain or .gz; 1 channel, 28x28.
            a folder of images: train/CLASS/ and val/CLASS/, or CLASS/ alone, every tenth image of which is for
            validation; 3 channels, 224x224.
            "torchvision:NAME:ROOT", a data set of torchvision that is on disk, e.g. "torchvision:CIFAR10:data".
        image_size: side of the images in pixels; None for the one above.

    Raises:
        DataError: there is nothing of that kind there, or it is damaged.
        ModuleNotFoundError: scikit-learn or torchvision is needed and missing.
    """
    # Here, not above: they make Data of what they find.
    from . import folders, idx, in_memory, torchvision_sets

    if image_size is not None and not 1 <= image_size <= MOST_PIXELS:
        raise DataError(f"image_size: expected from 1 to {MOST_PIXELS}, got {image_size}")
    if spec == "digits":
        return in_memory.open_digits(image_size)
    if spec.startswith("torchvision:"):
        _, name, root = [*spec.split(":", 2), ""][:3]
        if not name or not root:
            raise DataError(f"data: expected torchvision:NAME:ROOT, got {spec}")
        return torchvision_sets.open_torchvision(name, Path(root), image_size)
    folder = Path(spec)
    if not spec or not folder.is_dir():
        raise DataError(
            f"data: expected digits, torchvision:NAME:ROOT or a folder that exists, got {spec or 'nothing'}"
        )
    if idx.has_idx_files(folder):
        return in_memory.open_idx(folder, image_size)
    return folders.open_folder(folder, image_size)
