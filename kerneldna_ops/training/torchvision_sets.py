"""The data sets of torchvision that are on disk already."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .data import Data, DataError
from .folders import SIDE, data_of_files, import_torchvision
from .in_memory import make_data, resized


def open_torchvision(name: str, root: Path, image_size: int | None) -> Data:
    """The data set torchvision.datasets.NAME below `root`, in memory where torchvision has it there."""
    datasets = import_torchvision().datasets
    kind = getattr(datasets, name, None) if name in datasets.__all__ else None
    if kind is None:
        raise DataError(f"torchvision:{name}: torchvision has no data set of that name")
    train, validation = _parts(kind, name, root)
    class_names = getattr(train, "classes", None)
    if isinstance(getattr(train, "data", None), Tensor) or hasattr(getattr(train, "data", None), "dtype"):
        parts = [(resized(_pixels(part), image_size), _labels(part)) for part in (train, validation)]
        return make_data(name, parts[0], parts[1], class_names)
    side = SIDE if image_size is None else image_size
    if class_names is None:
        raise DataError(f"torchvision:{name}: expected a data set of classes, which this one does not name")
    return data_of_files(name, class_names, side, *((part, range(len(part))) for part in (train, validation)))


def _parts(kind: Any, name: str, root: Path) -> tuple[Any, Any]:
    """The part to train on and the one to validate on, which torchvision names differently from set to set."""
    parameters = inspect.signature(kind).parameters
    choices: tuple[tuple[bool | str, ...], ...]
    if "train" in parameters:
        argument, choices = "train", ((True,), (False,))
    elif "split" in parameters:
        argument, choices = "split", (("train", "trainval"), ("val", "test"))
    else:
        raise DataError(f"torchvision:{name}: expected a data set with a training and a validation part")
    download = {"download": False} if "download" in parameters else {}

    def first_that_exists(options: tuple[bool | str, ...]) -> Any:
        for option in options:
            try:
                return kind(root, **{argument: option}, **download)
            except ValueError:  # it has no such part
                if option == options[-1]:
                    raise

    try:
        return first_that_exists(choices[0]), first_that_exists(choices[1])
    except (RuntimeError, ValueError, TypeError, OSError) as error:
        raise DataError(f"torchvision:{name}: not found in {root}, or damaged ({error})") from error


def _pixels(part: Any) -> Tensor:
    """[N, C, H, W] uint8 from [N, H, W], [N, H, W, 3] or [N, 3, H, W]."""
    pixels = torch.as_tensor(part.data)
    if pixels.dim() == 3:
        return pixels[:, None]
    return pixels if pixels.shape[1] == 3 else pixels.permute(0, 3, 1, 2).contiguous()


def _labels(part: Any) -> Tensor:
    return torch.as_tensor(part.targets if hasattr(part, "targets") else part.labels).long()
