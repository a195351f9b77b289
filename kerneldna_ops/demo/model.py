"""A small residual network whose blocks share kernels, or do not, in the same arrangement."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..nn import ChildConv2d

WIDTHS = (16, 32, 64)
CLASSES = 10


def _own_weight(parent: nn.Conv2d) -> nn.Module:
    return conv3x3(parent.out_channels, parent.out_channels)


def _published_child(parent: nn.Conv2d) -> nn.Module:
    return ChildConv2d(parent)


def _dynamic_child(parent: nn.Conv2d) -> nn.Module:
    return ChildConv2d(parent, filter="dynamic", spatial="dynamic")


# What stands where a layer could take the kernel of another one, `parent`, of its stage.
VARIANTS: dict[str, Callable[[nn.Conv2d], nn.Module]] = {
    "static": _own_weight,
    "kerneldna": _published_child,
    "kerneldna-dynamic": _dynamic_child,
}


def conv3x3(in_channels: int, out_channels: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)


class Stage(nn.Module):
    """Three residual blocks of six 3x3 convolutions, three of which are children of the other three's kernels.

    The arrangement of layer3 and layer4 of the published ResNet-18 (KernelDNA, arXiv 2503.23379): the parents are
    conv1 (alone, with the stride), conv2 (two children) and conv3 (one child).
    [N, in_channels, H, W] -> [N, out_channels, H/2, W/2].
    """

    def __init__(self, in_channels: int, out_channels: int, child: Callable[[nn.Conv2d], nn.Module]) -> None:
        super().__init__()
        self.conv1 = conv3x3(in_channels, out_channels, stride=2)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.downsample = nn.Sequential(
            nn.Conv2d(in_channels, out_channels, 1, stride=2, bias=False), nn.BatchNorm2d(out_channels)
        )
        self.conv2 = conv3x3(out_channels, out_channels)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.conv3 = conv3x3(out_channels, out_channels)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self.children_of_conv2 = nn.ModuleList(child(self.conv2) for _ in range(2))
        self.child_of_conv3 = child(self.conv3)
        self.bns = nn.ModuleList(nn.BatchNorm2d(out_channels) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        first, second = self.children_of_conv2
        y = self.bns[0](first(F.relu(self.bn1(self.conv1(x)))))
        x = F.relu(y + self.downsample(x))
        y = self.bn2(self.conv2(F.relu(self.bns[1](second(x)))))
        x = F.relu(y + x)
        y = self.bn3(self.conv3(F.relu(self.bns[2](self.child_of_conv3(x)))))
        return F.relu(y + x)


class Block(nn.Module):
    """A residual block of two 3x3 convolutions, nothing shared: [N, C, H, W] -> [N, C, H, W]."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = conv3x3(channels, channels)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = conv3x3(channels, channels)
        self.bn2 = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))) + x)


class ResidualNet(nn.Module):
    """Images [N, 1, 32, 32] -> scores [N, 10]: one block at full size, then two stages, as in the published ResNet-18
    the later stages alone share kernels."""

    def __init__(self, child: Callable[[nn.Conv2d], nn.Module]) -> None:
        super().__init__()
        self.stem = nn.Sequential(conv3x3(1, WIDTHS[0]), nn.BatchNorm2d(WIDTHS[0]), nn.ReLU())
        self.block = Block(WIDTHS[0])
        self.stages = nn.Sequential(Stage(WIDTHS[0], WIDTHS[1], child), Stage(WIDTHS[1], WIDTHS[2], child))
        self.classifier = nn.Linear(WIDTHS[2], CLASSES)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Tensor) -> Tensor:
        scores: Tensor = self.classifier(self.stages(self.block(self.stem(images))).mean((2, 3)))
        return scores


def build(variant: str, seed: int) -> ResidualNet:
    """The network of VARIANTS[variant] with initial weights drawn from `seed`; the caller's random state is left."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return ResidualNet(VARIANTS[variant])
