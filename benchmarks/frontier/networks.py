"""A small ResNet and a small MobileNet in the published arrangement, [N, 1, 28, 28] -> [N, classes].

As in KernelDNA's ResNet-18 and MobileNetV2, the layers of one shape inside a stage are those that can share kernels;
they come from a variant. Everything else is static and the same in all variants."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.peers import has_temperatures, set_temperature, share_warehouses

from .variants import VARIANTS, Layers, Variant, conv

# Channels at 14x14, 7x7 and 4x4; True: of narrow variants.
RESNET_WIDTHS = {False: (16, 32, 64), True: (12, 24, 44)}
MOBILENET_WIDTHS = {False: (16, 24, 48), True: (16, 20, 40)}
EXPANSION = 6
# Of the adapter before the two pointwise layers of a block; the second is published as 24 of the expanded width.
REDUCTIONS = 4, 24
# The share of the training in which the peers that have a temperature bring it down.
ANNEALED = 0.2


class ResidualStage(nn.Module):
    """Three residual blocks of six 3x3 convolutions, as layer3 and layer4 of KernelDNA's ResNet-18: one with the stride
    and kernel of its own, three of one shape, two of one shape."""

    def __init__(self, in_channels: int, channels: int, layers: Layers) -> None:
        super().__init__()
        self.conv1 = conv(in_channels, channels, 3, stride=2)
        self.downsample = nn.Sequential(conv(in_channels, channels, 1, stride=2), nn.BatchNorm2d(channels))
        # The first of each is the parent, if there is one. It comes after its children, as published.
        self.conv2 = nn.ModuleList(layers(3, channels, channels, 3, REDUCTIONS[0]))
        self.conv3 = nn.ModuleList(layers(2, channels, channels, 3, REDUCTIONS[0]))
        self.bns = nn.ModuleList(nn.BatchNorm2d(channels) for _ in range(6))

    def forward(self, x: Tensor) -> Tensor:
        bn = self.bns
        y = F.relu(bn[0](self.conv1(x)))
        x = F.relu(bn[1](self.conv2[1](y)) + self.downsample(x))
        y = F.relu(bn[2](self.conv2[2](x)))
        x = F.relu(bn[3](self.conv2[0](y)) + x)
        y = F.relu(bn[4](self.conv3[1](x)))
        return F.relu(bn[5](self.conv3[0](y)) + x)


class InvertedResidual(nn.Module):
    """Pointwise, depthwise, pointwise; + x where that has the shape."""

    def __init__(self, first: nn.Module, depthwise: nn.Conv2d, last: nn.Module, out_channels: int) -> None:
        super().__init__()
        width = depthwise.out_channels
        self.first, self.depthwise, self.last = first, depthwise, last
        self.bn1, self.bn2, self.bn3 = nn.BatchNorm2d(width), nn.BatchNorm2d(width), nn.BatchNorm2d(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu6(self.bn2(self.depthwise(F.relu6(self.bn1(self.first(x))))))
        y = self.bn3(self.last(y))
        return x + y if y.shape == x.shape else y


class MobileStage(nn.Sequential):
    """A transition with weights of its own, then three blocks of one shape, as the clusters of KernelDNA's MobileNetV2:
    two children, and their parent last."""

    def __init__(self, in_channels: int, channels: int, layers: Layers) -> None:
        def depthwise(width: int, stride: int = 1) -> nn.Conv2d:
            return conv(width, width, 3, stride, groups=width)

        width = EXPANSION * in_channels
        transition = conv(in_channels, width, 1), depthwise(width, stride=2), conv(width, channels, 1)
        width = EXPANSION * channels
        first, last = layers(3, channels, width, 1, REDUCTIONS[0]), layers(3, width, channels, 1, REDUCTIONS[1])
        blocks = [InvertedResidual(first[number], depthwise(width), last[number], channels) for number in (1, 2, 0)]
        super().__init__(InvertedResidual(*transition, channels), *blocks)


class Network(nn.Module):
    """Convolution at half size, two stages, mean, classifier. In training mode it brings the peers' temperatures down
    over the first share of `training_steps`; the steps done are a part of its state_dict."""

    def __init__(self, stem: list[nn.Module], stages: list[nn.Module], scores: nn.Linear, training_steps: int) -> None:
        super().__init__()
        self.stem, self.stages, self.classifier = nn.Sequential(*stem), nn.Sequential(*stages), scores
        share_warehouses(*stages)
        self.annealing_steps = max(1, round(ANNEALED * training_steps))
        self.has_temperatures = has_temperatures(self)
        self.steps = 0

    def forward(self, images: Tensor) -> Tensor:
        if self.training and self.has_temperatures and self.steps <= self.annealing_steps:
            self._anneal(self.steps)
            self.steps += 1
        return self.classifier(self.stages(self.stem(images)).mean((2, 3)))

    def _anneal(self, step: int) -> None:
        set_temperature(self, step / self.annealing_steps)

    def get_extra_state(self) -> Tensor:
        return torch.tensor(self.steps)

    def set_extra_state(self, state: Tensor) -> None:
        self.steps = int(state)
        if self.steps:  # of a training that has begun: the temperatures are no buffers
            self._anneal(self.steps - 1)


def resnet(variant: Variant, classes: int, training_steps: int) -> Network:
    widths = RESNET_WIDTHS[variant.narrow]
    stages = [ResidualStage(widths[0], widths[1], variant.layers), ResidualStage(widths[1], widths[2], variant.layers)]
    stem = [conv(1, widths[0], 3, stride=2), nn.BatchNorm2d(widths[0]), nn.ReLU()]
    return Network(stem, stages, nn.Linear(widths[2], classes), training_steps)


def mobilenet(variant: Variant, classes: int, training_steps: int) -> Network:
    widths = MOBILENET_WIDTHS[variant.narrow]
    stages = [MobileStage(widths[0], widths[1], variant.layers), MobileStage(widths[1], widths[2], variant.layers)]
    stem = [conv(1, widths[0], 3, stride=2), nn.BatchNorm2d(widths[0]), nn.ReLU6()]
    return Network(stem, stages, nn.Linear(widths[2], classes), training_steps)


NETWORKS = {"resnet": resnet, "mobilenet": mobilenet}


def build(network: str, variant: str, seed: int, classes: int, training_steps: int) -> Network:
    """Initial weights are drawn from `seed`; the caller's random state is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return NETWORKS[network](VARIANTS[variant], classes, training_steps)
