"""How well a network classifies one part of a data set."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from .data import Split
from .distributed import Processes

ALONE = Processes()


@dataclass(frozen=True)
class Scores:
    """Means over the images: cross-entropy in nats, and the share in percent whose class is the first, or among the
    first five (all, where there are fewer classes), of the network's."""

    loss: float
    top1: float
    top5: float


def score(
    model: nn.Module,
    split: Split,
    batch_size: int = 256,
    *,
    amp: torch.dtype | None = None,
    channels_last: bool = False,
    workers: int = 0,
    processes: Processes = ALONE,
) -> Scores:
    """The scores of `model`, on processes.device, in eval mode; each process works on its share of the images.

    The model is left in the mode that it was in. `amp`: the dtype of torch.autocast, None for none.
    """
    raise NotImplementedError
