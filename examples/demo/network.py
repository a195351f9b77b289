"""A small residual network, as anybody would write it, and what kerneldna_ops.share_kernels makes of it."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kerneldna_ops import share_kernels

WIDTHS, CLASSES = (16, 32, 64), 10
# Attention of the children; None: every convolution keeps a kernel of its own.
VARIANTS = {
    "static": None,
    "kerneldna": {"filter": "static", "spatial": "static"},  # as published
    "kerneldna-dynamic": {"filter": "dynamic", "spatial": "dynamic"},
}
# Parent -> children, in both stages of three blocks, as in the published ResNet-18.
GROUPS = {
    f"stages.{stage}.{parent}.conv2": [f"stages.{stage}.{child}" for child in children]
    for stage in (1, 2)
    for parent, children in {1: ["0.conv2", "1.conv1"], 2: ["2.conv1"]}.items()
}


class Block(nn.Module):
    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        stride = channels // in_channels
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.downsample = nn.Sequential()
        if stride > 1:
            self.downsample.append(nn.Conv2d(in_channels, channels, 1, stride, bias=False))
            self.downsample.append(nn.BatchNorm2d(channels))

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(y)) + self.downsample(x))


class ResNet(nn.Module):
    """Images [N, 1, 32, 32] -> scores [N, 10]."""

    def __init__(self) -> None:
        super().__init__()
        first, *widths = WIDTHS
        self.stem = nn.Sequential(nn.Conv2d(1, first, 3, padding=1, bias=False), nn.BatchNorm2d(first), nn.ReLU())
        self.stages = nn.Sequential(Block(first, first))
        for before, width in zip(WIDTHS, widths, strict=False):
            self.stages.append(nn.Sequential(Block(before, width), Block(width, width), Block(width, width)))
        self.classifier = nn.Linear(WIDTHS[-1], CLASSES)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Tensor) -> Tensor:
        return self.classifier(self.stages(self.stem(images)).mean((2, 3)))


def build(variant: str, seed: int = 0) -> ResNet:
    torch.manual_seed(seed)
    model = ResNet()
    if VARIANTS[variant] is not None:
        share_kernels(model, GROUPS, **VARIANTS[variant])
    return model
