"""Where a training stands, as a file: all that going on needs, tensors and plain values only (weights_only)."""

from __future__ import annotations

from pathlib import Path
from typing import Any


class TrainingError(RuntimeError):
    """Why a training cannot start or go on, in one sentence."""


def save(path: Path, content: dict[str, Any]) -> None:
    """Replace `path` as a whole. TrainingError if it cannot be written; what was there before is then kept.

    `content` of a training's last.pt and best.pt has
        network: dict, what models.create_model takes to build it: "name", "num_classes", "in_channels", ...
        data: dict, "name", "classes" (names), "channels", "image_size", "train" and "validation" (how many)
        recipe: dict of recipes.Recipe; seed: int
        epoch, step: completed epochs, and steps of the epoch under way
        accuracy: of the weights below on the validation images, in percent, or None
        model: the state_dict of the network (best.pt: the averaged one where there is an average)
    and last.pt also ema (None or {"model": state_dict, "updates": int}), optimizer, schedule, scaler, sums, best.
    """
    raise NotImplementedError


def load(path: Path) -> dict[str, Any]:
    """The content of `path` on the CPU. TrainingError if it is missing, damaged or no checkpoint of a training."""
    raise NotImplementedError
