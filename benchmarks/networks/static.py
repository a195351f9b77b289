"""The static networks that the published ones are compared with: ResNet-18 and -50 (He et al., 2016, the stride in the
3x3 convolution), MobileNetV2 (Sandler et al., 2018) and ConvNeXt-Tiny (Liu et al., 2022), as torchvision builds them.

[N, 3, H, W] -> [N, 1000]. Written out so that the benchmarks need torch alone; a test holds the counts of parameters
and multiplications to the published ones. No stochastic depth and no dropout: neither costs time worth measuring."""

from collections.abc import Callable
from copy import deepcopy
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

CLASSES = 1000


def conv(in_channels: int, out_channels: int, kernel: int, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    """A convolution and its BatchNorm."""
    padding = (kernel - 1) // 2
    return [
        nn.Conv2d(in_channels, out_channels, kernel, stride, padding, groups=groups, bias=False),
        nn.BatchNorm2d(out_channels),
    ]


class Residual(nn.Module):
    """relu(branch(x) + shortcut(x))."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, branch: list[nn.Module]) -> None:
        super().__init__()
        self.branch = nn.Sequential(*branch)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or in_channels != out_channels:
            self.shortcut = nn.Sequential(*conv(in_channels, out_channels, 1, stride))
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        y = self.branch(x)
        y += self.shortcut(x)
        return self.relu(y)


def basic_block(in_channels: int, width: int, stride: int) -> nn.Module:
    branch = [*conv(in_channels, width, 3, stride), nn.ReLU(inplace=True), *conv(width, width, 3)]
    return Residual(in_channels, width, stride, branch)


def bottleneck(in_channels: int, width: int, stride: int) -> nn.Module:
    branch = [*conv(in_channels, width, 1), nn.ReLU(inplace=True), *conv(width, width, 3, stride)]
    branch += [nn.ReLU(inplace=True), *conv(width, 4 * width, 1)]
    return Residual(in_channels, 4 * width, stride, branch)


def resnet(block: Callable[[int, int, int], nn.Module], depths: tuple[int, ...], expansion: int) -> nn.Module:
    layers = [*conv(3, 64, 7, 2), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, 1)]
    channels = 64
    for stage, depth in enumerate(depths):
        width = 64 * 2**stage
        blocks = []
        for number in range(depth):
            blocks.append(block(channels, width, 2 if stage > 0 and number == 0 else 1))
            channels = width * expansion
        layers.append(nn.Sequential(*blocks))
    network = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, CLASSES))
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return network


def resnet18() -> nn.Module:
    return resnet(basic_block, (2, 2, 2, 2), 1)


def resnet50() -> nn.Module:
    return resnet(bottleneck, (3, 4, 6, 3), 4)


class Skip(nn.Module):
    """branch(x) + x."""

    def __init__(self, branch: list[nn.Module]) -> None:
        super().__init__()
        self.branch = nn.Sequential(*branch)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.branch(x)


def inverted_residual(in_channels: int, out_channels: int, stride: int, expansion: int) -> nn.Module:
    width = in_channels * expansion
    layers = [*conv(in_channels, width, 1), nn.ReLU6(inplace=True)] if expansion != 1 else []
    layers += [*conv(width, width, 3, stride, groups=width), nn.ReLU6(inplace=True), *conv(width, out_channels, 1)]
    return Skip(layers) if stride == 1 and in_channels == out_channels else nn.Sequential(*layers)


# Expansion, channels, blocks, stride of the first block (table 2 of the paper).
MOBILENET_V2 = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)


def rounded(channels: float) -> int:
    """The multiple of 8 that is nearest, but never more than a tenth below."""
    nearest = max(8, int(channels + 4) // 8 * 8)
    return nearest + 8 if nearest < 0.9 * channels else nearest


def mobilenet_v2(width: float = 1.0) -> nn.Module:
    channels = rounded(32 * width)
    layers = [*conv(3, channels, 3, 2), nn.ReLU6(inplace=True)]
    for expansion, plain, blocks, stride in MOBILENET_V2:
        out_channels = rounded(plain * width)
        for number in range(blocks):
            layers.append(inverted_residual(channels, out_channels, stride if number == 0 else 1, expansion))
            channels = out_channels
    last = rounded(1280 * max(1.0, width))
    layers += [*conv(channels, last, 1), nn.ReLU6(inplace=True)]
    network = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(last, CLASSES))
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out")
    return network


class ChannelNorm(nn.LayerNorm):
    """LayerNorm over the channels of [N, C, H, W]."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class ConvNeXtBlock(nn.Module):
    """x + scale * mlp(norm(depthwise(x))), the pointwise layers as linear ones over [N, H, W, C]."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(channels, channels, 7, padding=3, groups=channels)
        self.norm = nn.LayerNorm(channels, eps=1e-6)
        self.mlp = nn.Sequential(nn.Linear(channels, 4 * channels), nn.GELU(), nn.Linear(4 * channels, channels))
        self.scale = nn.Parameter(torch.full((channels, 1, 1), 1e-6))

    def forward(self, x: Tensor) -> Tensor:
        y = self.mlp(self.norm(self.depthwise(x).permute(0, 2, 3, 1))).permute(0, 3, 1, 2)
        return x + self.scale * y


def convnext_tiny() -> nn.Module:
    widths = (96, 192, 384, 768)
    layers: list[nn.Module] = [nn.Conv2d(3, widths[0], 4, 4), ChannelNorm(widths[0])]
    for depth, width, next_width in zip((3, 3, 9), *zip(*pairwise(widths), strict=True), strict=True):
        layers += [ConvNeXtBlock(width) for _ in range(depth)]
        layers += [ChannelNorm(width), nn.Conv2d(width, next_width, 2, 2)]
    layers += [ConvNeXtBlock(widths[-1]) for _ in range(3)]
    head = [nn.AdaptiveAvgPool2d(1), ChannelNorm(widths[-1]), nn.Flatten(), nn.Linear(widths[-1], CLASSES)]
    network = nn.Sequential(*layers, *head)
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.trunc_normal_(module.weight, std=0.02)
            nn.init.zeros_(module.bias)
    return network


def folded(network: nn.Module) -> nn.Module:
    """A copy of a network in eval mode in which every BatchNorm is folded into its convolution."""
    network = deepcopy(network)
    for sequence in [module for module in network.modules() if isinstance(module, nn.Sequential)]:
        for number, (layer, norm) in enumerate(pairwise(list(sequence))):
            if isinstance(layer, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                sequence[number], sequence[number + 1] = fuse_conv_bn_eval(layer, norm), nn.Identity()
    return network
