"""Images that stay in their files until they are needed, through torchvision."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .data import Augmentation, Data, DataError
from .randomness import seed_of

SIDE = 224
# Of ImageNet's training images, red, green and blue, in [0, 1].
MEAN = (0.485, 0.456, 0.406)
DEVIATION = (0.229, 0.224, 0.225)
# One image in so many is for validation where a folder does not say.
VALIDATION_STRIDE = 10


def import_torchvision() -> Any:
    try:
        import torchvision
        import torchvision.transforms.v2
    except (ImportError, RuntimeError, AttributeError) as error:
        # torchvision built for another torch fails with RuntimeError.
        raise ModuleNotFoundError(f"images in files need torchvision, which cannot be imported: {error}") from error
    return torchvision


class InFiles:
    """The images `indices` of a torchvision data set of (PIL image, label).

    Training images: RandomResizedCrop and, with augmentation.flip, a flip. Others: the shorter side resized to 8/7 of
    `image_size`, and the square in the middle.
    """

    def __init__(self, dataset: Any, indices: Sequence[int], image_size: int) -> None:
        self.dataset = dataset
        self.indices = indices
        v2 = import_torchvision().transforms.v2
        to_tensor = [v2.PILToTensor(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, DEVIATION)]
        self._random_cut = v2.RandomResizedCrop(image_size)
        self._random_flip = v2.RandomHorizontalFlip()
        self._middle = v2.Compose([v2.Resize(image_size * 8 // 7), v2.CenterCrop(image_size)])
        self._to_tensor = v2.Compose(to_tensor)

    def __len__(self) -> int:
        return len(self.indices)

    def load(self, indices: Tensor, augmentation: Augmentation | None = None) -> tuple[Tensor, Tensor]:
        images, labels = zip(*(self._load_one(index, augmentation) for index in indices.tolist()), strict=True)
        return torch.stack(images), torch.tensor(labels)

    def _load_one(self, index: int, augmentation: Augmentation | None) -> tuple[Tensor, int]:
        number = self.indices[index]
        try:
            image, label = self.dataset[number]
        except Exception as error:  # decoders raise whatever they like
            samples = getattr(self.dataset, "samples", None)
            where = samples[number][0] if samples else f"image {number} of {type(self.dataset).__name__}"
            raise DataError(f"{where}: no image that can be read ({error}); put one in its place to go on") from error
        image = image.convert("RGB")
        if augmentation is None:
            image = self._middle(image)
        else:
            with torch.random.fork_rng(devices=[]):
                # Not torch.manual_seed, which sets the GPUs' too.
                torch.default_generator.manual_seed(
                    seed_of("augmentation", augmentation.seed, augmentation.epoch, index)
                )
                image = self._random_cut(image)
                if augmentation.flip:
                    image = self._random_flip(image)
        return self._to_tensor(image), label


def open_folder(folder: Path, image_size: int | None) -> Data:
    """train/CLASS/ and val/CLASS/, or CLASS/ alone, of whose images in the order of their names every tenth, the first
    included, is for validation."""
    side = SIDE if image_size is None else image_size
    name = folder.resolve().name
    if not (folder / "train").is_dir():
        images = _image_folder(folder)
        validation = _every_tenth(images)
        chosen = set(validation)
        train = [index for index in range(len(images)) if index not in chosen]
        without = set(images.class_to_idx.values()) - {images.targets[index] for index in train}
        if without:
            raise DataError(f"{folder / images.classes[min(without)]}: expected at least 2 images, got 1")
        return data_of_files(name, images.classes, side, (images, train), (images, validation))
    if not (folder / "val").is_dir():
        raise DataError(f"{folder}: expected a folder val beside train")
    parts = [_image_folder(folder / part) for part in ("train", "val")]
    if parts[0].classes != parts[1].classes:
        odd = sorted(set(parts[0].classes) ^ set(parts[1].classes))
        raise DataError(f"{folder}: expected the same class folders in train and val, got {odd[0]} in one of them only")
    return data_of_files(name, parts[0].classes, side, *((part, range(len(part))) for part in parts))


def data_of_files(name: str, class_names: Sequence[str], side: int, *parts: tuple[Any, Sequence[int]]) -> Data:
    """Of the images to train on and those for validation, each a data set and indices into it."""
    train, validation = (InFiles(images, indices, side) for images, indices in parts)
    return Data(name, train, validation, tuple(map(str, class_names)), 3, side)


def _image_folder(folder: Path) -> Any:
    datasets = import_torchvision().datasets
    try:
        images = datasets.ImageFolder(folder, allow_empty=True)
    except FileNotFoundError as error:
        raise DataError(f"{folder}: expected a folder for each class, with its images in it") from error
    empty = set(images.class_to_idx.values()) - set(images.targets)
    if empty:
        raise DataError(f"{folder / images.classes[min(empty)]}: expected images, got a folder without any")
    return images


def _every_tenth(images: Any) -> list[int]:
    """Of each class."""
    seen = [0] * len(images.classes)
    chosen = []
    for index, label in enumerate(images.targets):
        if seen[label] % VALIDATION_STRIDE == 0:
            chosen.append(index)
        seen[label] += 1
    return chosen
