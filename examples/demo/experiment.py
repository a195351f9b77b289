"""What each network costs and learns."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from kerneldna_ops.measure.memory import highest_during, in_a_process
from kerneldna_ops.measure.networks import Cost, costs, gradients
from kerneldna_ops.measure.time import alternate
from kerneldna_ops.training import checkpoint
from kerneldna_ops.training.accuracy import score
from kerneldna_ops.training.data import Data
from kerneldna_ops.training.recipes import RECIPES
from kerneldna_ops.training.trainer import Trainer

from .network import CLASSES, VARIANTS, build

BATCH_SIZE, ROUNDS = 64, 15


def measure(data: Data, on_round: Callable[[], object]) -> dict[str, Cost]:
    """Of each variant, untrained: what the weights are makes no difference."""
    models = {variant: build(variant) for variant in VARIANTS}
    take_turns = partial(alternate, rounds=ROUNDS, sample_seconds=0, on_round=on_round)
    return costs(models, *data.train.load(torch.arange(BATCH_SIZE)), "static", take_turns)


def peak_memory() -> dict[str, int | None]:
    """Bytes that gradients of a batch take at most, from a process for each variant."""
    return {variant: in_a_process(_peak, variant) for variant in VARIANTS}


def _peak(variant: str) -> int:
    model = build(variant)

    def step(count: int) -> object:
        return gradients(model, torch.zeros(count, 1, 32, 32), torch.arange(count) % CLASSES)

    step(2)  # starts what is started once
    return highest_during(lambda: step(BATCH_SIZE))


def train(variant: str, seed: int, data: Data, epochs: int, folder: Path) -> float:
    """Goes on from what is in the folder. The accuracy after the last epoch, in percent: no epoch is chosen by it."""
    recipe = replace(RECIPES["digits"], epochs=epochs, learning_rate=0.05)
    network = {"name": f"demo {variant}"}
    return Trainer(build(variant, seed), data, recipe, folder, network=network, seed=seed).run().last_accuracy


def load_back(variant: str, folder: Path, data: Data) -> float:
    """The accuracy of the network that a training left on disk; RuntimeError where it is not the one written there."""
    content = checkpoint.load(folder / "last.pt")
    model = build(variant)
    model.load_state_dict(content["model"])
    accuracy = score(model, data.validation).top1
    if accuracy != content["accuracy"]:
        raise RuntimeError(f"{folder / 'last.pt'}: expected {content['accuracy']} %, got {accuracy} %")
    return accuracy
