"""Images that stay in their files until they are needed, through torchvision."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .._extras import missing
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
        raise missing("images in files need torchvision", "train", error) from error
    return torchvision


class InFiles:
    """The images `indices` of a torchvision data set of (PIL image, label).

    Training images: RandomResizedCrop and, with augmentation.flip, a flip. Others: the shorter side resized to 8/7 of
    `image_size`, and the square in the middle.
    """

    def __init__(self, dataset: Any, indices: Sequence[int], image_size: int) -> None:
        self.dataset = dataset
        self.indices = indices
        self.image_size = image_size
        v2 = import_torchvision().transforms.v2
        to_tensor = [v2.PILToTensor(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, DEVIATION)]
        self._random_cut = v2.RandomResizedCrop(image_size)
        self._random_flip = v2.RandomHorizontalFlip()
        self._middle = v2.Compose([v2.Resize(image_size * 8 // 7), v2.CenterCrop(image_size)])
        self._to_tensor = v2.Compose(to_tensor)

    def __len__(self) -> int:
        return len(self.indices)

    def load(self, indices: Tensor, augmentation: Augmentation | None = None) -> tuple[Tensor, Tensor]:
        if not len(indices):
            return torch.empty(0, 3, self.image_size, self.image_size), torch.empty(0, dtype=torch.int64)
        images, labels = zip(*(self._load_one(index, augmentation) for index in indices.tolist()), strict=True)
        return torch.stack(images), torch.tensor(labels)

    def _load_one(self, index: int, augmentation: Augmentation | None) -> tuple[Tensor, int]:
        number = self.indices[index]
        try:
            image, label = self.dataset[number]
            image = to_rgb(image)
        except Exception as error:  # decoders raise whatever they like
            samples = getattr(self.dataset, "samples", None)
            where = samples[number][0] if samples else f"image {number} of {type(self.dataset).__name__}"
            raise DataError(f"{where}: no image that can be read ({error}); put one in its place to go on") from error
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
        images = datasets.ImageFolder(folder, loader=_open, allow_empty=True)
    except FileNotFoundError as error:
        raise DataError(f"{folder}: expected a folder for each class, with its images in it") from error
    empty = set(images.class_to_idx.values()) - set(images.targets)
    if empty:
        raise DataError(f"{folder / images.classes[min(empty)]}: expected images, got a folder without any")
    seen: dict[str, str] = {}
    for name in sorted({os.path.dirname(path) for path, _ in images.samples}, key=len):
        first = seen.setdefault(os.path.realpath(name), name)
        if first != name:
            raise DataError(f"{name}: a link to {first}, whose images would count twice")
    return images


def _open(path: str) -> Any:
    """The PIL image in a file, as it is there: torchvision's own loader makes all grey values above 255 white."""
    from PIL import Image

    if not os.path.isfile(path):  # a pipe would be waited for
        raise OSError("not a regular file")
    with Image.open(path) as image:
        image.load()
    return image


def to_rgb(image: Any) -> Any:
    """A PIL image of any kind in 8-bit RGB; grey in 16 bits by the range of its type.

    Raises:
        ValueError: it is of a kind whose range nothing tells: 32-bit integers, floating point, or grey in other bits.
    """
    if image.mode == "I" and image.format in ("PNG", "PPM"):  # which have no more than 16 bits
        tags = _GREY_IN_16_BITS
    elif image.mode.startswith("I;16"):
        tags = getattr(image, "tag_v2", _GREY_IN_16_BITS)
    elif image.mode in ("I", "F"):
        kind = "floating point" if image.mode == "F" else "32-bit integers"
        raise ValueError(f"pixels are {kind}, whose range is not told: expected 8 or 16 bits")
    else:
        return image.convert("RGB")
    if any(tags.get(tag, value) != value for tag, value in _GREY_IN_16_BITS.items()):
        raise ValueError("grey values are not in 16 bits from black to white")
    return image.convert("I").point(lambda value: value * (255 / 65535) + 0.5).convert("L").convert("RGB")


# BitsPerSample and PhotometricInterpretation of a TIFF file.
_GREY_IN_16_BITS = {258: (16,), 262: 1}


def _every_tenth(images: Any) -> list[int]:
    """Of each class."""
    seen = [0] * len(images.classes)
    chosen = []
    for index, label in enumerate(images.targets):
        if seen[label] % VALIDATION_STRIDE == 0:
            chosen.append(index)
        seen[label] += 1
    return chosen
