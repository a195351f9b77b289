"""Scikit-learn's handwritten digits as images for a small network: enlarged, split once, the same for every run."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

SIDE = 32
SPLIT_SEED = 0
TEST_SHARE = 0.5
VALIDATION_SHARE = 0.1


@dataclass(frozen=True)
class Images:
    """Images [N, 1, H, W] float32 with labels [N] int64."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Digits:
    """Disjoint parts: weights are fitted to `train`, the epoch is chosen on `validation`, `test` only reports."""

    train: Images
    validation: Images
    test: Images


def load_digits() -> Digits:
    """The 1797 grey 8x8 digits that come inside scikit-learn, bicubically enlarged to [N, 1, 32, 32].

    The split keeps the proportions of the ten classes. Mean and deviation are those of the training images alone, and
    nothing is augmented, so nothing of one part reaches another. The source does not say who wrote which digit:
    one hand can stand on both sides, so the accuracies compare networks and are no figure for unknown writers.
    """
    from sklearn import datasets
    from sklearn.model_selection import train_test_split

    source = datasets.load_digits()
    pixels = torch.tensor(source.images, dtype=torch.float32)[:, None]
    images = F.interpolate(pixels, size=(SIDE, SIDE), mode="bicubic", align_corners=False)
    labels = torch.tensor(source.target)

    rest, test = train_test_split(
        range(len(labels)), test_size=TEST_SHARE, stratify=source.target, random_state=SPLIT_SEED
    )
    train, validation = train_test_split(
        rest,
        test_size=VALIDATION_SHARE / (1 - TEST_SHARE),
        stratify=source.target[rest],
        random_state=SPLIT_SEED,
    )
    deviation, mean = torch.std_mean(images[train])
    images = (images - mean) / deviation
    return Digits(*(Images(images[part], labels[part]) for part in (train, validation, test)))
