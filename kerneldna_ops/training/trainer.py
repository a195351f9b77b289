"""The training of one network: goes on from what its folder holds, and leaves checkpoints and logs there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from .data import Data
from .distributed import Kind, Processes
from .recipes import Recipe

ALONE = Processes()


@dataclass(frozen=True)
class Result:
    """Accuracies (top 1) in percent on the validation images; `best` is the highest of all epochs, so chosen on them.

    With an average of the weights (Recipe.ema_decay) they are the averaged network's. `seconds` is the time spent
    training and validating, interruptions left out. `checkpoint` holds the best weights.
    """

    best_accuracy: float
    last_accuracy: float
    epochs: int
    seconds: float
    checkpoint: Path


class Trainer:
    """Train `model` on `data` by `recipe`, from where `folder` left off if a training of the same is in it.

    Writes there: last.pt (all that going on needs), best.pt (the weights of the best epoch), epochs.csv, steps.csv and,
    if tensorboard is installed, its event files. Killed at any moment and started again, with the same arguments, it
    ends with the same weights, bit for bit on a CPU. Ctrl-C saves first.

    Args:
        model: scores [N, data.classes] from images [N, data.channels, H, W], its weights as training starts.
        data: see open_data.
        recipe: see recipes.py.
        folder: where checkpoints and logs go; made if missing.
        network: how to build the model again, kept in checkpoints: the arguments of models.create_model by name.
            None for a model that it does not build.
        seed: of the order and the augmentation of the images, and of dropout.
        amp: torch.bfloat16 or torch.float16 for torch.autocast in that dtype; float16 scales gradients.
        channels_last: whether model and images are in that memory format.
        workers: processes that load images; 0 loads them in this one.
        save_every: seconds between checkpoints inside an epoch; one is written after every epoch too.
        processes: see distributed.py; the model is trained on processes.device.
        kind: how several processes hold the model.
        progress: whether to show bars and lines.

    Raises:
        ValueError: an argument does not fit.
        TrainingError: the folder holds another training, a file cannot be written, or the loss is no number.
        KeyboardInterrupt: Ctrl-C, after saving.
    """

    def __init__(
        self,
        model: nn.Module,
        data: Data,
        recipe: Recipe,
        folder: Path,
        *,
        network: Mapping[str, Any] | None = None,
        seed: int = 0,
        amp: torch.dtype | None = None,
        channels_last: bool = False,
        workers: int = 0,
        save_every: float = 600.0,
        processes: Processes = ALONE,
        kind: Kind = "ddp",
        progress: bool = True,
    ) -> None:
        raise NotImplementedError

    def run(self) -> Result:
        """Train to the end, or say what was reached if it is there already."""
        raise NotImplementedError
