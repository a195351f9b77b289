"""How well a network classifies one part of a data set."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from .._eval_mode import eval_mode
from .batches import load
from .data import Split
from .distributed import Processes

ALONE = Processes()


@dataclass(frozen=True)
class Scores:
    """Means over the images: cross-entropy in nats, and the share in percent whose class is the first, or among the
    first five (all, where there are fewer classes), of the network's. `per_class`: top1 among the images of each class,
    None for a class without images."""

    loss: float
    top1: float
    top5: float
    per_class: tuple[float | None, ...]


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

    Each module of the model is left in the mode that it was in. `amp`: the dtype of torch.autocast, None for none.
    """
    device = processes.device
    memory_format = torch.channels_last if channels_last else torch.preserve_format
    # As many batches on every process, because FSDP needs all of them at every layer. Where a process has no image for
    # one, it takes one that does not count.
    number = math.ceil(math.ceil(len(split) / processes.world_size) / batch_size)
    shares = processes.share(torch.arange(len(split))).tensor_split(number)
    batches = [share if len(share) else torch.zeros(1, dtype=torch.int64) for share in shares]
    totals = torch.zeros(2, dtype=torch.float64, device=device)
    by_class = torch.zeros(2, 1, dtype=torch.float64, device=device)
    with eval_mode(model), torch.no_grad(), torch.autocast(device.type, amp, enabled=amp is not None):
        loaded = load(split, batches, workers=workers, pin_memory=device.type == "cuda")
        for share, (images, labels) in zip(shares, loaded, strict=True):
            images = images.to(device, non_blocking=True, memory_format=memory_format)
            labels = labels.to(device, non_blocking=True)
            scores = model(images).float()[: len(share)]
            labels = labels[: len(share)]
            right = scores.topk(min(5, scores.shape[1])).indices == labels[:, None]
            total_loss = F.cross_entropy(scores, labels, reduction="sum")
            totals += torch.stack([total_loss.double(), right.sum().double()])
            classes = F.one_hot(labels, scores.shape[1]).double()
            by_class = by_class + torch.stack([classes[right[:, 0]].sum(0), classes.sum(0)])
    loss, five = (total / len(split) for total in processes.sum(totals).tolist())
    hits, images_of_class = processes.sum(by_class).tolist()
    per_class = [100 * hit / count if count else None for hit, count in zip(hits, images_of_class, strict=True)]
    return Scores(loss, 100 * sum(hits) / len(split), 100 * five, tuple(per_class))
