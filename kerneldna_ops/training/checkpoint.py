"""Where a training stands, as a file: all that going on needs, tensors and plain values only (weights_only)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .._files import check_whole, replacing

FORMAT = "kerneldna training 1"
ADVICE = "name another folder"
_OTHER = "no checkpoint that this version of kerneldna train wrote"

# Entries by name: of which type each is, or what entries it has for its part; STATE for a state_dict.
Kinds = Mapping[str, Any]
STATE: Any = dict[str, Tensor]
# Those of every checkpoint, and those that say of a training what it is and how far it has come.
NETWORK: Kinds = {
    "network": {"name": str},
    "data": {"classes": list, "channels": int, "image_size": int},
    "model": STATE,
}
TRAINING: Kinds = {
    "recipe": dict,
    "computation": dict,
    "seed": int,
    "epoch": int,
    "step": int,
    "loss_sum": float,
    "seconds": float,
    "accuracy": float | None,
    "best_accuracy": float | None,
}


class TrainingError(ValueError):
    """Why a training cannot start or go on, in one sentence."""


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Make what keeps `path` from being written a TrainingError."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        # torch.save turns the OSError of the file into a RuntimeError of its own.
        reason = error if isinstance(error, OSError) else error.__context__
        if not isinstance(reason, OSError):
            raise
        raise TrainingError(
            f"{path}: could not be written ({reason.strerror or reason}); what was saved before is kept"
        ) from error


def save(path: Path, content: Mapping[str, Any]) -> None:
    """Replace `path` as a whole. TrainingError if it cannot be written; what was there before is then kept.

    `content` of a training's last.pt and best.pt has
        network: dict, what models.create_model takes to build it: "name", "num_classes", "in_channels", ...
        data: dict, "name", "classes" (names), "channels", "image_size", "train" and "validation" (how many)
        recipe: dict of recipes.Recipe; seed: int
        computation: dict, "amp" (the dtype's name, or None) and "sync_batchnorm"
        epoch, step: completed epochs, and steps of the epoch under way
        accuracy: in percent, on the validation images, after the latest completed epoch, with the averaged weights
            where there are some; None before
        model: the state_dict of the network (best.pt: the averaged one where there is an average)
    and last.pt also what else training.trainer needs to go on.
    """
    with writing(path), replacing(path) as temporary, temporary.open("wb") as file:
        torch.save({"format": FORMAT, **content}, file)


def load(path: Path) -> dict[str, Any]:
    """The content of `path` on the CPU. TrainingError if it is missing, damaged or no checkpoint of a training."""
    try:
        check_whole(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file can raise anything
        if isinstance(error, OSError) and error.filename is not None:
            raise TrainingError(f"{path}: could not be read ({error.strerror})") from error
        raise TrainingError(f"{path}: damaged, or no checkpoint (tensors and plain values, weights_only)") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise TrainingError(f"{path}: no checkpoint of kerneldna train")
    check_entries(path, content, NETWORK)
    return content


def check_entries(path: Path, content: Mapping[str, Any], kinds: Kinds, where: str = "") -> None:
    """TrainingError unless all entries of `kinds` are there and of their type."""
    for name, kind in kinds.items():
        if name not in content:
            raise TrainingError(f"{path}: {_OTHER}: its {where}{name} is missing")
        value = content[name]
        if isinstance(kind, Mapping) or kind is STATE:
            _check_type(path, value, dict, f"{where}{name}")
            inner: Kinds = dict.fromkeys(value, Tensor) if kind is STATE else kind
            check_entries(path, value, inner, f"{where}{name}.")
        else:
            _check_type(path, value, kind, f"{where}{name}")


def _check_type(path: Path, value: object, expected: Any, name: str) -> None:
    if not isinstance(value, expected) or isinstance(value, bool):
        wanted = getattr(expected, "__name__", expected)
        raise TrainingError(f"{path}: {_OTHER}: its {name} is of type {type(value).__name__}, not {wanted}")


def check_same(path: Path, content: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """TrainingError unless the training saved in `path` is the one that is `wanted`."""
    data, other_data = content["data"], wanted["data"]
    if len(data["classes"]) != len(other_data["classes"]):
        counts = f"{len(data['classes'])} classes, not {len(other_data['classes'])}"
        raise TrainingError(f"{path}: holds a training on {counts}; {ADVICE}")
    for part in ("network", "data", "recipe", "computation"):
        for name in {**wanted[part], **content[part]}:
            old, new = content[part].get(name), wanted[part].get(name)
            if old != new:
                raise TrainingError(f"{path}: holds a training whose {part} has {name} {old}, not {new}; {ADVICE}")
    if content["seed"] != wanted["seed"]:
        raise TrainingError(f"{path}: holds a training with seed {content['seed']}, not {wanted['seed']}; {ADVICE}")


def check_shapes(path: Path, saved: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> None:
    """TrainingError unless the state_dict `saved` in `path` is of the model whose state_dict is `state`."""
    shapes, other_shapes = ({name: list(value.shape) for name, value in s.items()} for s in (saved, state))
    for name in {**other_shapes, **shapes}:
        if shapes.get(name) != other_shapes.get(name):
            raise TrainingError(
                f"{path}: holds another network, whose {name} is {shapes.get(name, 'missing')} and not"
                f" {other_shapes.get(name, 'missing')}; {ADVICE}"
            )
