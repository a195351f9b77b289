"""MobileNetV2 as the paper describes it, in plain PyTorch, with the names of the authors' checkpoints."""

from collections import OrderedDict

import torch
import torch.nn.functional as F
from torch import nn


class SE(nn.Module):
    """x times its gate; `se` holds the layers under the authors' names."""

    def __init__(self, channels, hidden):
        super().__init__()
        self.se = nn.Module()
        self.se.fc1 = nn.Conv2d(channels, hidden, 1, bias=False)
        self.se.bn = nn.BatchNorm2d(hidden)
        self.se.fc2 = nn.Conv2d(hidden, channels, 1)

    def forward(self, x):
        features = self.se.bn(self.se.fc1(x.mean((2, 3), keepdim=True))).relu()
        return x * self.se.fc2(features).sigmoid()


def depthwise(channels, stride=1):
    return nn.Conv2d(channels, channels, 3, stride, 1, groups=channels, bias=False)


class Owner(nn.Module):
    """A block with kernels of its own."""

    def __init__(self, c_in, c_out, stride, residual):
        super().__init__()
        wide = 6 * c_in
        self.residual = residual
        self.layers = nn.Sequential(
            OrderedDict(
                pw1=nn.Conv2d(c_in, wide, 1, bias=False),
                bn1=nn.BatchNorm2d(wide),
                relu1=nn.ReLU6(),
                dw=depthwise(wide, stride),
                bn2=nn.BatchNorm2d(wide),
                relu2=nn.ReLU6(),
                pw2=nn.Conv2d(wide, c_out, 1, bias=False),
                bn3=nn.BatchNorm2d(c_out),
            )
        )

    def forward(self, x):
        return x + self.layers(x) if self.residual else self.layers(x)


class Borrower(nn.Module):
    """A block whose pointwise kernels are given to it."""

    def __init__(self, channels):
        super().__init__()
        wide = 6 * channels
        self.se1 = SE(channels, channels // 4)
        self.bn1 = nn.BatchNorm2d(wide)
        self.dwconv = depthwise(wide)
        self.bn2 = nn.BatchNorm2d(wide)
        self.se3 = SE(wide, wide // 24)
        self.bn3 = nn.BatchNorm2d(channels)

    def forward(self, x, expand, project):
        y = F.relu6(self.bn1(F.conv2d(self.se1(x), expand)))
        y = F.relu6(self.bn2(self.dwconv(y)))
        return x + self.bn3(F.conv2d(self.se3(y), project))


class Cluster(nn.Module):
    def __init__(self, c_in, c_out, stride, children):
        super().__init__()
        self.transition = Owner(c_in, c_out, stride, residual=False)
        self.blocks = nn.ModuleList(Borrower(c_out) for _ in range(children))
        self.last_block = Owner(c_out, c_out, 1, residual=True)
        self.static_filter_attn1 = nn.Parameter(torch.zeros(children, 6 * c_out, 1, 1, 1))
        self.static_filter_attn3 = nn.Parameter(torch.zeros(children, c_out, 1, 1, 1))

    def forward(self, x):
        x = self.transition(x)
        parent = self.last_block.layers
        for block, f1, f3 in zip(self.blocks, self.static_filter_attn1, self.static_filter_attn3, strict=True):
            x = block(x, parent.pw1.weight * (1 + f1), parent.pw2.weight * (1 + f3))
        return self.last_block(x)


class PublishedMobileNetV2(nn.Module):
    """torchvision's MobileNetV2 with clusters in the places where the authors put them."""

    def __init__(self, width, num_classes):
        super().__init__()
        import torchvision

        static = torchvision.models.mobilenet_v2(width_mult=width, num_classes=num_classes, dropout=0)
        self.features, self.classifier = static.features, static.classifier
        shapes = {1.0: (24, 32, 64, 96, 160), 0.5: (16, 16, 32, 48, 80)}[width]
        clusters = zip((6, 10, 13, 16), shapes[:-1], shapes[1:], (2, 2, 1, 2), (1, 2, 1, 1), strict=True)
        for place, c_in, c_out, stride, children in clusters:
            self.features[place] = Cluster(c_in, c_out, stride, children)
        for place in (4, 5, 7, 8, 9, 11, 12, 14, 15):
            self.features[place] = nn.Sequential()

    def forward(self, x):
        return self.classifier(self.features(x).mean((2, 3)))
