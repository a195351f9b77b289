"""Data sets by one string that says what they are and where they lie."""

from __future__ import annotations

from pathlib import Path

from . import folders, idx, in_memory, torchvision_sets
from .data import MOST_PIXELS, Data, DataError


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
