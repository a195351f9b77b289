"""The batches of an epoch, in an order that depends on seed and epoch alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from torch import Tensor

from .data import Augmentation, Split


def order(count: int, seed: int, epoch: int) -> Tensor:
    """The indices 0 ... count-1 shuffled for this epoch, [count] int64."""
    raise NotImplementedError


def load(
    split: Split,
    batches: Sequence[Tensor],
    augmentation: Augmentation | None = None,
    workers: int = 0,
    pin_memory: bool = False,
) -> Iterator[tuple[Tensor, Tensor]]:
    """(images, labels) of each of `batches`, index tensors, in turn; loaded ahead by `workers` processes if there are
    any. torch's global random state is left alone."""
    raise NotImplementedError
