"""The batches of an epoch, in an order that depends on seed and epoch alone."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Generator, Tensor
from torch.utils.data import DataLoader

from .data import Augmentation, DataError, Split
from .randomness import generator


def order(count: int, seed: int, epoch: int) -> Tensor:
    """The indices 0 ... count-1 shuffled for this epoch, [count] int64."""
    return torch.randperm(count, generator=generator("order", seed, epoch))


def cut(order: Tensor, batch_size: int, processes: int) -> list[Tensor]:
    """`order` in batches; the last one has what is left, as many for each of `processes`.

    A single one for each goes into the batch before, because BatchNorm cannot train on one sample. Of what is left in
    the end, fewer than there are processes, nothing is used: in another epoch the order is another.
    """
    batches = list(order[: len(order) // processes * processes].split(batch_size))
    if len(batches) > 1 and len(batches[-1]) == processes < batch_size:
        batches[-2:] = [torch.cat(batches[-2:])]
    return batches


def load(
    split: Split,
    batches: Sequence[Tensor],
    augmentation: Augmentation | None = None,
    workers: int = 0,
    pin_memory: bool = False,
) -> Iterator[tuple[Tensor, Tensor]]:
    """(images, labels) of each of `batches`, index tensors, in turn; loaded ahead by up to `workers` processes. torch's
    global random state is left alone. What Split.load raises comes out at the batch that it is about."""
    loader: DataLoader[tuple[Tensor, Tensor] | DataError] = DataLoader(
        _Batches(split, augmentation),  # type: ignore[arg-type]
        sampler=batches,
        batch_size=None,
        num_workers=min(workers, len(batches)),
        pin_memory=pin_memory,
        worker_init_fn=_leave_signals_to_the_trainer if workers else None,
        # Else it draws from the global one, and dropout would come out differently after going on.
        generator=Generator(),
    )
    for loaded in loader:
        if isinstance(loaded, DataError):
            raise loaded
        yield loaded


@dataclass(frozen=True)
class _Batches:
    split: Split
    augmentation: Augmentation | None

    def __getitem__(self, indices: Tensor) -> tuple[Tensor, Tensor] | DataError:
        try:
            return self.split.load(indices, self.augmentation)
        except DataError as error:
            # Raised in a worker, it would arrive with that process's traceback in its sentence.
            return error


def _leave_signals_to_the_trainer(_: int) -> None:
    """Which wants the rest of its batch before it saves and ends: see interruption.py."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
