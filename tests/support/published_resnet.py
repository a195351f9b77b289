"""The ResNets as the authors of KernelDNA published them, with their names: plain PyTorch, none of this project.

Written from the paper and the names and shapes of their checkpoints. [N, 3, H, W] -> [N, classes].
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn


def conv_bn(in_channels, out_channels, kernel, stride=1):
    conv = nn.Conv2d(in_channels, out_channels, kernel, stride, kernel // 2, bias=False)
    return conv, nn.BatchNorm2d(out_channels)


def named(**layers):
    """Modules under names, to be called one by one."""
    return nn.ModuleDict(layers)


class SqueezeExcite(nn.Module):
    """x times a gate for each sample and channel."""

    def __init__(self, channels):
        super().__init__()
        fc1, bn = conv_bn(channels, channels // 4, 1)
        self.se = named(fc1=fc1, bn=bn, fc2=nn.Conv2d(channels // 4, channels, 1))

    def forward(self, x):
        hidden = F.relu(self.se.bn(self.se.fc1(x.mean((2, 3), keepdim=True))))
        return x * torch.sigmoid(self.se.fc2(hidden))


class BasicBlock(nn.Module):
    def __init__(self, in_channels, channels, stride):
        super().__init__()
        self.conv1, self.bn1 = conv_bn(in_channels, channels, 3, stride)
        self.conv2, self.bn2 = conv_bn(channels, channels, 3)
        if stride != 1:
            self.downsample = nn.Sequential(*conv_bn(in_channels, channels, 1, stride))

    def forward(self, x):
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(y + (self.downsample(x) if hasattr(self, "downsample") else x))


class SharedStage18(nn.Module):
    """Six 3x3 convolutions in three blocks, with the weights of conv1, conv2 and conv3."""

    def __init__(self, in_channels, channels):
        super().__init__()
        self.static_spatial_attn = nn.Parameter(torch.zeros(3, 1, 1, 3, 3))
        self.static_filter_attn = nn.Parameter(torch.zeros(3, channels, 1, 1, 1))
        self.conv1, self.bn1 = conv_bn(in_channels, channels, 3, 2)
        self.conv2, self.bn2 = conv_bn(channels, channels, 3)
        self.conv3, self.bn3 = conv_bn(channels, channels, 3)
        self.downsample = nn.Sequential(*conv_bn(in_channels, channels, 1, 2))
        self.se = nn.ModuleList(SqueezeExcite(channels) for _ in range(3))
        self.bns = nn.ModuleList(nn.BatchNorm2d(channels) for _ in range(3))

    def child(self, number, parent, x):
        weight = parent.weight * (1 + self.static_spatial_attn[number]) * (1 + self.static_filter_attn[number])
        return self.bns[number](F.conv2d(self.se[number](x), weight, padding=1))

    def forward(self, x):
        y = self.child(0, self.conv2, F.relu(self.bn1(self.conv1(x))))
        x = F.relu(y + self.downsample(x))
        x = F.relu(x + self.bn2(self.conv2(F.relu(self.child(1, self.conv2, x)))))
        return F.relu(x + self.bn3(self.conv3(F.relu(self.child(2, self.conv3, x)))))


class Bottleneck(nn.Module):
    """The blocks of layer1 and layer2, as torchvision names them."""

    def __init__(self, in_channels, channels, stride):
        super().__init__()
        self.conv1, self.bn1 = conv_bn(in_channels, channels, 1)
        self.conv2, self.bn2 = conv_bn(channels, channels, 3, stride)
        self.conv3, self.bn3 = conv_bn(channels, 4 * channels, 1)
        if in_channels != 4 * channels:
            self.downsample = nn.Sequential(*conv_bn(in_channels, 4 * channels, 1, stride))

    def forward(self, x):
        y = F.relu(self.bn1(self.conv1(x)))
        y = self.bn3(self.conv3(F.relu(self.bn2(self.conv2(y)))))
        return F.relu(y + (self.downsample(x) if hasattr(self, "downsample") else x))


class OwnBlock50(nn.Module):
    """A bottleneck with a 3x3 kernel of its own."""

    def __init__(self, channels, in_channels=None):
        super().__init__()
        stride = 1 if in_channels is None else 2
        conv1, bn1 = conv_bn(in_channels or 4 * channels, channels, 1)
        conv2, bn2 = conv_bn(channels, channels, 3, stride)
        conv3, bn3 = conv_bn(channels, 4 * channels, 1)
        self.layers = named(conv1=conv1, bn1=bn1, conv2=conv2, bn2=bn2, conv3=conv3, bn3=bn3)
        if in_channels is not None:
            conv, bn = conv_bn(in_channels, 4 * channels, 1, stride)
            self.downsample = named(conv=conv, bn=bn)

    def forward(self, x):
        layers = self.layers
        y = F.relu(layers.bn1(layers.conv1(x)))
        y = F.relu(layers.bn2(layers.conv2(y)))
        y = layers.bn3(layers.conv3(y))
        return F.relu(y + (self.downsample.bn(self.downsample.conv(x)) if hasattr(self, "downsample") else x))


class BorrowingBlock50(nn.Module):
    """A bottleneck around the 3x3 kernel of another one."""

    def __init__(self, channels):
        super().__init__()
        conv1, bn1 = conv_bn(4 * channels, channels, 1)
        conv3, bn3 = conv_bn(channels, 4 * channels, 1)
        self.half1 = named(conv1=conv1, bn1=bn1, se=SqueezeExcite(channels))
        self.half2 = named(bn2=nn.BatchNorm2d(channels), conv3=conv3, bn3=bn3)

    def forward(self, x, parent, filter_attn, spatial_attn):
        weight = parent.layers.conv2.weight * (1 + filter_attn) * (1 + spatial_attn)
        y = self.half1.se(F.relu(self.half1.bn1(self.half1.conv1(x))))
        y = F.relu(self.half2.bn2(F.conv2d(y, weight, padding=1)))
        return F.relu(x + self.half2.bn3(self.half2.conv3(y)))


class SharedLayer3(nn.Module):
    def __init__(self):
        super().__init__()
        self.block0 = OwnBlock50(256, 512)
        self.parents = nn.ModuleList(OwnBlock50(256) for _ in range(3))
        self.kids = nn.ModuleList(BorrowingBlock50(256) for _ in range(3))
        self.static_filter_attn = nn.Parameter(torch.zeros(3, 256, 1, 1, 1))
        self.static_spatial_attn = nn.Parameter(torch.zeros(3, 1, 1, 3, 3))

    def forward(self, x):
        x = self.block0(x)
        for pair in zip(self.kids, self.parents, self.static_filter_attn, self.static_spatial_attn, strict=True):
            kid, parent, *attentions = pair
            x = parent(kid(x, parent, *attentions))
        return x


class SharedLayer4(nn.Module):
    def __init__(self):
        super().__init__()
        self.block0 = OwnBlock50(512, 1024)
        self.blocks = nn.ModuleList([BorrowingBlock50(512)])
        self.last_block = OwnBlock50(512)
        self.static_filter_attn2 = nn.Parameter(torch.zeros(1, 512, 1, 1, 1))
        self.static_spatial_attn = nn.Parameter(torch.zeros(1, 1, 1, 3, 3))

    def forward(self, x):
        x = self.block0(x)
        x = self.blocks[0](x, self.last_block, self.static_filter_attn2[0], self.static_spatial_attn[0])
        return self.last_block(x)


class ResNet(nn.Module):
    def __init__(self, layer1, layer2, layer3, layer4, features, classes):
        super().__init__()
        self.conv1, self.bn1 = conv_bn(3, 64, 7, 2)
        self.layer1, self.layer2, self.layer3, self.layer4 = layer1, layer2, layer3, layer4
        self.fc = nn.Linear(features, classes)

    def forward(self, images):
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(images))), 3, 2, 1)
        return self.fc(self.layer4(self.layer3(self.layer2(self.layer1(x)))).mean((2, 3)))


def resnet18(classes):
    layer1 = nn.Sequential(BasicBlock(64, 64, 1), BasicBlock(64, 64, 1))
    layer2 = nn.Sequential(BasicBlock(64, 128, 2), BasicBlock(128, 128, 1))
    return ResNet(layer1, layer2, SharedStage18(128, 256), SharedStage18(256, 512), 512, classes)


def resnet50(classes):
    layer1 = nn.Sequential(Bottleneck(64, 64, 1), *(Bottleneck(256, 64, 1) for _ in range(2)))
    layer2 = nn.Sequential(Bottleneck(256, 128, 2), *(Bottleneck(512, 128, 1) for _ in range(3)))
    return ResNet(layer1, layer2, SharedLayer3(), SharedLayer4(), 2048, classes)
