"""One pass of a network, before anything is written or measured."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def try_out(model: nn.Module, name: str, images: Tensor, classes: int) -> None:
    """Raises a ValueError unless `model`, in the mode that it is in, gives scores [N, classes] for images [N, C, H, W].

    In training it is to be a copy, because BatchNorm's statistics change.
    """
    try:
        with torch.no_grad():
            scores = model(images)
    except Exception as error:  # networks raise whatever they like
        reason = " ".join((str(error) or type(error).__name__).split())
        count = f"a batch of {len(images)} in training" if model.training else "images"
        shape = "x".join(map(str, images.shape[1:]))
        raise ValueError(f"{name} does not take {count} of {shape}: {reason}") from error
    if not isinstance(scores, Tensor) or scores.shape != (len(images), classes):
        got = list(scores.shape) if isinstance(scores, Tensor) else type(scores).__name__
        raise ValueError(f"{name}: expected a network that gives scores {[len(images), classes]}, got {got}")
