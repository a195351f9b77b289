"""A network and a data set so small that an epoch takes milliseconds, with all that a resume could get wrong: shared
kernels, BatchNorm, dropout, augmentation."""

import torch
import torch.nn.functional as F
from torch import nn

from kerneldna_ops.nn import ChildConv2d
from kerneldna_ops.training.in_memory import make_data
from kerneldna_ops.training.recipes import Recipe

CLASSES = 3
RECIPE = Recipe(
    epochs=3,
    batch_size=8,
    learning_rate=0.1,
    weight_decay=1e-4,
    warmup_epochs=0.5,
    label_smoothing=0.1,
    ema_decay=0.7,
    crop_padding=1,
)


class Network(nn.Module):
    def __init__(self, classes=CLASSES):
        super().__init__()
        self.parent = nn.Conv2d(1, 4, 3, stride=2, bias=False)
        self.own = nn.Conv2d(4, 4, 1, bias=False)
        self.child = ChildConv2d(self.own)
        self.bn = nn.BatchNorm2d(4)
        self.classifier = nn.Linear(4, classes)

    def forward(self, images):
        x = F.relu(self.bn(self.child(F.relu(self.own(self.parent(images))))))
        return self.classifier(F.dropout(x.mean((2, 3)), 0.2, self.training))


def network(seed=0, classes=CLASSES):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Network(classes)


def data(train=41, validation=20, classes=CLASSES, name="tiny"):
    """Random images: five steps an epoch, the last of which takes the image that is left over too."""
    source = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (train + validation, 1, 8, 8), generator=source, dtype=torch.uint8)
    labels = torch.arange(train + validation) % classes
    return make_data(name, (images[:train], labels[:train]), (images[train:], labels[train:]))
