"""Small images, all in memory, augmented a batch at a time."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from .._extras import missing
from . import idx
from .data import Augmentation, Data, DataError
from .randomness import generator

DIGITS_SIDE = 32
SPLIT_SEED = 0


class InMemory:
    """Images [N, C, H, W], uint8 or float32, with labels [N] int64; `mean` and `deviation` [C] of its training part."""

    def __init__(self, images: Tensor, labels: Tensor, mean: Tensor, deviation: Tensor) -> None:
        self.images = images
        self.labels = labels
        self.mean, self.deviation = (value.float()[:, None, None] for value in (mean, deviation))
        self._draws: tuple[Augmentation, Tensor] | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def load(self, indices: Tensor, augmentation: Augmentation | None = None) -> tuple[Tensor, Tensor]:
        images = self.images[indices]
        if augmentation is not None:
            images = cut_and_flip(images, augmentation, self._draws_of(augmentation)[indices])
        return (images.float() - self.mean) / self.deviation, self.labels[indices]

    def _draws_of(self, augmentation: Augmentation) -> Tensor:
        """Three numbers in [0, 1) for each image, those of the last epoch asked for being kept."""
        if self._draws is None or self._draws[0] != augmentation:
            source = generator("augmentation", augmentation.seed, augmentation.epoch)
            self._draws = augmentation, torch.rand(len(self), 3, generator=source)
        return self._draws[1]


def cut_and_flip(images: Tensor, augmentation: Augmentation, draws: Tensor) -> Tensor:
    """`images` [n, C, H, W] moved and mirrored as `draws` [n, 3] say: down, to the right, left to right."""
    count, _, height, width = images.shape
    padding = augmentation.crop_padding
    images = F.pad(images, [padding] * 4)
    top, left = (draws[:, :2] * (2 * padding + 1)).long().unbind(1)
    rows = top[:, None] + torch.arange(height)
    columns = left[:, None] + torch.arange(width)
    if augmentation.flip:
        columns = torch.where(draws[:, 2:] < 0.5, columns.flip(1), columns)
    cut = images.permute(0, 2, 3, 1)[torch.arange(count)[:, None, None], rows[:, :, None], columns[:, None, :]]
    return cut.permute(0, 3, 1, 2).contiguous()


def make_data(
    name: str, train: tuple[Tensor, Tensor], validation: tuple[Tensor, Tensor], class_names: Sequence[str] | None = None
) -> Data:
    """Data of (images [N, C, H, W], labels [N]), normalised by the training images. The classes are `class_names`, or
    numbers up to the highest of the training labels.

    DataError if the images of the parts do not go together, are not square, or a label has no class.
    """
    class_names = tuple(class_names or map(str, range(int(train[1].max()) + 1)))
    channels, height, width = train[0].shape[1:]
    if train[0].shape[1:] != validation[0].shape[1:] or height != width:
        shapes = f"{list(train[0].shape[1:])} to train on and {list(validation[0].shape[1:])} for validation"
        raise DataError(f"{name}: expected square images of one size, got {shapes}")
    for part, (_, labels) in {"training": train, "validation": validation}.items():
        low, high = int(labels.min()), int(labels.max())
        if low < 0 or high >= len(class_names):
            raise DataError(f"{name}: expected {part} labels from 0 to {len(class_names) - 1}, got {low} to {high}")
    mean, deviation = _statistics(train[0])
    if not deviation.all():
        raise DataError(f"{name}: expected training images that differ, got one value in all pixels of a channel")
    parts = [InMemory(*part, mean, deviation) for part in (train, validation)]
    return Data(name, parts[0], parts[1], class_names, channels, height)


def resized(images: Tensor, side: int | None) -> Tensor:
    """`images` [N, C, H, W] uint8 with `side` rows and columns (None: as they are), bilinear."""
    if side is None or tuple(images.shape[2:]) == (side, side):
        return images
    # A part at a time: as float32 they are four times as large.
    parts = (
        F.interpolate(part.float(), (side, side), mode="bilinear", antialias=True).round().to(torch.uint8)
        for part in images.split(1024)
    )
    return torch.cat(list(parts))


def open_digits(image_size: int | None) -> Data:
    """The grey 8x8 digits that come inside scikit-learn, bicubically enlarged; half of each class for validation.

    The source does not say who wrote which digit: one hand can stand in both parts, so an accuracy compares networks
    and is no figure for unknown writers.
    """
    try:
        from sklearn import datasets
        from sklearn.model_selection import train_test_split
    except ImportError as error:
        raise missing("the digits need scikit-learn", "train", error) from error
    side = DIGITS_SIDE if image_size is None else image_size
    source = datasets.load_digits()
    pixels = torch.tensor(source.images, dtype=torch.float32)[:, None]
    images = F.interpolate(pixels, (side, side), mode="bicubic", align_corners=False)
    labels = torch.tensor(source.target)
    parts = train_test_split(range(len(labels)), test_size=0.5, stratify=source.target, random_state=SPLIT_SEED)
    train, validation = ((images[part], labels[part]) for part in parts)
    return make_data("digits", train, validation)


def open_idx(folder: Path, image_size: int | None) -> Data:
    """The images of four idx files; those called t10k are for validation."""
    (images, labels), (other_images, other_labels) = (idx.read_part(folder, part) for part in idx.PARTS)
    train = resized(images[:, None], image_size), labels
    validation = resized(other_images[:, None], image_size), other_labels
    return make_data(folder.resolve().name, train, validation)


def _statistics(images: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and deviation [C] over samples, rows and columns."""
    total, squares = torch.zeros(2, images.shape[1], dtype=torch.float64)
    for part in images.split(1024):
        values = part.double()
        total += values.sum((0, 2, 3))
        squares += values.square().sum((0, 2, 3))
    count = images.numel() // images.shape[1]
    mean = total / count
    return mean, (squares / count - mean.square()).clamp(min=0).sqrt()
