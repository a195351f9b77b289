"""A trained network on disk, with what is needed to build it again and to check that it is the same."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from .._files import replacing
from .data import Digits
from .model import ResidualNet, build
from .train import evaluate


@dataclass(frozen=True)
class Run:
    """One training and the epoch of it that did best on the validation images; accuracies in percent."""

    variant: str
    seed: int
    epoch: int
    validation_accuracy: float
    test_accuracy: float
    seconds: float


@dataclass(frozen=True)
class Checkpoint:
    """A run and its weights after that epoch."""

    run: Run
    state: dict[str, Tensor]

    def save(self, path: Path) -> None:
        with replacing(path) as temporary:
            torch.save({"run": asdict(self.run), "state": self.state}, temporary)

    @classmethod
    def load(cls, path: Path) -> Checkpoint:
        content = torch.load(path, weights_only=True)
        return cls(Run(**content["run"]), content["state"])

    def network(self) -> ResidualNet:
        model = build(self.run.variant, self.run.seed)
        model.load_state_dict(self.state)
        return model


def reload_and_evaluate(path: Path, digits: Digits) -> float:
    """The test accuracy of the network loaded from `path`, in percent; RuntimeError if it is not the one recorded."""
    checkpoint = Checkpoint.load(path)
    accuracy = evaluate(checkpoint.network(), digits.test)
    if accuracy != checkpoint.run.test_accuracy:
        raise RuntimeError(f"{path}: expected {checkpoint.run.test_accuracy} % on the test images, got {accuracy} %")
    return accuracy
