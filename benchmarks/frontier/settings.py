"""What is trained and for how long: all of it in two hours on two cores, or a short form in ten minutes."""

from dataclasses import dataclass
from itertools import product
from pathlib import Path

from kerneldna_ops.training.recipes import Recipe

from .networks import NETWORKS
from .variants import VARIANTS

BATCH_SIZE = 128


@dataclass(frozen=True)
class Setting:
    """The budget, the same for every variant. `images`: the first so many of the data set for training, as many again
    at most for the test; None takes all."""

    name: str
    epochs: int
    seeds: int
    images: int | None = None

    @property
    def recipe(self) -> Recipe:
        return Recipe(
            epochs=self.epochs,
            batch_size=BATCH_SIZE,
            learning_rate=0.1,
            weight_decay=5e-4,
            nesterov=True,
            warmup_epochs=0.1 * self.epochs,
            crop_padding=2,
        )


FULL = Setting("full", epochs=4, seeds=3)
SHORT = Setting("short", epochs=1, seeds=1, images=24_000)


@dataclass(frozen=True)
class Run:
    """One training."""

    network: str
    variant: str
    seed: int

    @property
    def name(self) -> str:
        return f"{self.network}-{self.variant}-{self.seed}"

    def folder(self, work: Path) -> Path:
        return work / self.name


def runs(setting: Setting) -> list[Run]:
    """Seed by seed, so that whoever stops early has something of every variant."""
    return [Run(*which) for seed in range(setting.seeds) for which in product(NETWORKS, VARIANTS, [seed])]
