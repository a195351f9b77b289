"""The trainings: two at a time on the CPU, with one thread each, one at a time on a GPU."""

import multiprocessing
import os
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kerneldna_ops.training import batches
from kerneldna_ops.training.data import Augmentation, Data, DataError, Split
from kerneldna_ops.training.distributed import Processes
from kerneldna_ops.training.idx import has_idx_files
from kerneldna_ops.training.in_memory import open_idx
from kerneldna_ops.training.trainer import Trainer

from .networks import build
from .settings import Run, Setting

# With two threads a step of networks this small takes half as much processor time again as with one (measured).
WORKERS = {"cpu": 2, "cuda": 1}


@dataclass(frozen=True)
class Trained:
    """Accuracy on the test images after the last epoch, in percent: no epoch is chosen by it."""

    run: Run
    accuracy: float
    seconds: float


@dataclass(frozen=True)
class First:
    """The first `count` images of another part."""

    part: Split
    count: int

    def __len__(self) -> int:
        return self.count

    def load(self, indices: Tensor, augmentation: Augmentation | None = None) -> tuple[Tensor, Tensor]:
        return self.part.load(indices, augmentation)


@cache
def load(folder: Path, images: int | None) -> Data:
    """Four idx files, of which the first so many images; DataError if they are not there."""
    if not has_idx_files(folder):
        raise DataError(f"--data: expected a folder with the four idx files of Fashion-MNIST, got {folder}")
    data = open_idx(folder, None)
    if images is None:
        return data
    train, validation = (First(part, min(images, len(part))) for part in (data.train, data.validation))
    return replace(data, train=train, validation=validation)


def train(run: Run, setting: Setting, folder: Path, work: Path, device: str) -> Trained:
    """Trains to the end from where the run's folder is; one that is finished only says what it reached."""
    data = load(folder, setting.images)
    steps = setting.epochs * len(batches.cut(torch.arange(len(data.train)), setting.recipe.batch_size, 1))
    trainer = Trainer(
        build(run.network, run.variant, run.seed, data.classes, steps),
        data,
        setting.recipe,
        run.folder(work),
        seed=run.seed,
        processes=Processes(device=torch.device(device)),
        progress=False,
    )
    result = trainer.run()
    return Trained(run, result.last_accuracy, result.seconds)


def train_all(
    runs: Iterable[Run], setting: Setting, folder: Path, work: Path, device: str, workers: int
) -> Iterator[Trained]:
    """As they finish; a single worker is this process."""
    if workers == 1:
        yield from (train(run, setting, folder, work, device) for run in runs)
        return
    spawn = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, spawn, initializer=_start_worker)
    try:
        futures = [pool.submit(_train_in_worker, run, setting, folder, work, device) for run in runs]
        for future in as_completed(futures):
            yield future.result()
    finally:
        pool.shutdown(cancel_futures=True)


def _start_worker() -> None:
    """One thread, and no life after the process that started it: one started anew would train the same run."""
    torch.set_num_threads(1)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    multiprocessing.parent_process().join()
    os._exit(1)


def _train_in_worker(*arguments: Any) -> Trained:
    """Ctrl-C reaches all processes: this one has saved by then, and must not take up the next run."""
    try:
        return train(*arguments)
    except KeyboardInterrupt:
        os._exit(130)
