"""KernelDNA ConvNeXt-Tiny, derived: its authors name it and give no structure.

The rule is that of their MobileNetV2, the published network whose block is like ConvNeXt's, an inverted bottleneck:

* Shared are the two pointwise layers of a block; the depthwise 7x7 is not. Both are 1x1 convolutions here, not the
  linear layers of torchvision, so that children run as one operation each.
* In each of the four stages (3, 3, 9 and 3 blocks of 96, 192, 384 and 768 channels) the first block has its own
  kernels, the last one is the parent, and those between (1, 1, 7 and 1) are its children. A stage is what lies between
  two changes of resolution, as in MobileNetV2; all four have the three blocks that sharing takes.
* A child has a squeeze-and-excitation in front of each pointwise layer, where the layer reads its input: behind the
  LayerNorm with reduction 4, and behind the GELU, where there are four times as many channels, with reduction 24. Its
  filter attention is static; a 1x1 kernel has no spatial attention.
* Every block owns its depthwise convolution, LayerNorm and layer scale, and the biases of its pointwise layers.

That makes 18,343,096 parameters and 4.459 GMAC at 224x224, where the static network has 28,589,128 and 4.456.
"""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..nn import ChildConv2d
from ..nn._checks import Norm
from ._checks import check_counts
from ._pointwise import EXPANSION, PROJECTION, pointwise
from .network import Network, weighted_layers
from .weights import load_weights

STAGES = ((96, 3), (192, 3), (384, 9), (768, 3))  # channels and blocks


def kerneldna_convnext_tiny(
    *,
    weights: str | PathLike[str] | None = None,
    num_classes: int = 1000,
    in_channels: int = 3,
    stochastic_depth_prob: float = 0.1,
    layer_scale: float = 1e-6,
    norm_layer: Norm | None = None,
    se_norm_layer: Norm | None = nn.BatchNorm1d,
    dynamic: bool = False,
) -> ConvNeXt:
    """ConvNeXt-Tiny (arXiv 2201.03545) that shares kernels like KernelDNA's MobileNetV2; how, stands above.

    Args:
        weights: a file with a state_dict of this network; None: weights at random.
        in_channels: channels of the images.
        norm_layer: channels -> norm over [N, C, H, W]; None: LayerNorm over the channels.
        se_norm_layer: as for `kerneldna_resnet18`.
        dynamic: filter attention per sample, in place of static.

    Raises:
        ValueError: an argument is out of range, or the weights are those of another network.
        OSError: the file of the weights cannot be read.
    """
    sizes = STAGES, num_classes, in_channels, stochastic_depth_prob, layer_scale
    model = ConvNeXt(*sizes, norm_layer, dynamic, se_norm_layer)
    if weights is not None:
        load_weights(model, weights)
    return model


class ConvNeXt(Network):
    """Images [N, in_channels, H, W], H and W at least 32, -> scores [N, num_classes].

    The modules have torchvision's names, those within a block ConvNeXt's.
    """

    head = "classifier.2"

    def __init__(
        self,
        stages: Sequence[tuple[int, int]],
        num_classes: int,
        in_channels: int,
        stochastic_depth_prob: float,
        layer_scale: float,
        norm_layer: Norm | None,
        dynamic: bool,
        se_norm_layer: Norm | None = nn.BatchNorm1d,
    ) -> None:
        name = "kerneldna_convnext_tiny"
        super().__init__(name, published=None)
        check_counts(name, num_classes=num_classes, in_channels=in_channels)
        if not 0 <= stochastic_depth_prob <= 1:
            raise ValueError(f"{name}: stochastic_depth_prob must be between 0 and 1, got {stochastic_depth_prob}")
        norm = norm_layer or LayerNorm2d

        total = sum(blocks for _, blocks in stages)
        drops = (stochastic_depth_prob * block / (total - 1) for block in range(total))
        width = stages[0][0]
        features: list[nn.Module] = [nn.Sequential(nn.Conv2d(in_channels, width, 4, 4), norm(width))]
        self.feature_channels: dict[str, int] = {}
        for channels, blocks in stages:
            if channels != width:
                features.append(nn.Sequential(norm(width), nn.Conv2d(width, channels, 2, 2)))
                width = channels
            self.feature_channels[f"features.{len(features)}"] = channels
            stage_drops = [next(drops) for _ in range(blocks)]
            features.append(_stage(channels, stage_drops, layer_scale, norm, dynamic, se_norm_layer))
        self.features = nn.Sequential(*features)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.num_classes = num_classes
        self.num_features = width
        head = nn.Linear(width, num_classes)
        self.classifier = nn.Sequential(norm(width), nn.Flatten(1), head)

        owners = [*weighted_layers(self), head]
        for layer in owners:
            nn.init.trunc_normal_(layer.weight, std=0.02)
        children = [module for module in self.modules() if isinstance(module, ChildConv2d)]
        for bias in (layer.bias for layer in (*owners, *children)):
            if bias is not None:
                nn.init.zeros_(bias)

    def forward(self, images: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(images))

    def forward_features(self, images: Tensor) -> Tensor:
        """The map [N, num_features, H/32, W/32] of the last stage."""
        return self.features(images)  # type: ignore[no-any-return]

    def forward_head(self, features: Tensor) -> Tensor:
        """The scores [N, num_classes] from that map."""
        return self.classifier(self.avgpool(features))  # type: ignore[no-any-return]


class Block(nn.Module):
    """Depthwise 7x7, LayerNorm, expansion to four times the width, GELU, projection, layer scale, added to the input.

    [N, C, H, W] -> [N, C, H, W]. With a parent, both pointwise convolutions are children of the parent's.
    """

    pwconv1: nn.Conv2d | ChildConv2d
    pwconv2: nn.Conv2d | ChildConv2d

    def __init__(
        self,
        channels: int,
        drop: float,
        layer_scale: float,
        norm_layer: Norm,
        parent: Block | None = None,
        dynamic: bool = False,
        se_norm_layer: Norm | None = nn.BatchNorm1d,
    ) -> None:
        super().__init__()
        self.drop = drop
        self.dwconv = nn.Conv2d(channels, channels, 7, padding=3, groups=channels)
        self.norm = norm_layer(channels)
        owner = None if parent is None else parent.pwconv1
        self.pwconv1 = pointwise(channels, 4 * channels, owner, EXPANSION, dynamic, se_norm_layer, bias=True)
        self.act = nn.GELU()
        owner = None if parent is None else parent.pwconv2
        self.pwconv2 = pointwise(4 * channels, channels, owner, PROJECTION, dynamic, se_norm_layer, bias=True)
        self.layer_scale = nn.Parameter(torch.full((channels, 1, 1), layer_scale))

    def forward(self, input: Tensor) -> Tensor:
        output = self.pwconv2(self.act(self.pwconv1(self.norm(self.dwconv(input)))))
        return input + self._kept(self.layer_scale * output)

    def _kept(self, output: Tensor) -> Tensor:
        """Stochastic depth: zero for some of the samples in training, and the others larger by as much."""
        if not self.training or self.drop == 0:
            return output
        kept = 1 - self.drop
        noise = output.new_empty(output.shape[0], 1, 1, 1).bernoulli_(kept)
        return output * (noise / kept if kept > 0 else noise)

    def extra_repr(self) -> str:
        return f"drop={self.drop}"


class LayerNorm2d(nn.LayerNorm):
    """LayerNorm over the channels of [N, C, H, W]."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, eps=1e-6)

    def forward(self, input: Tensor) -> Tensor:
        last = input.permute(0, 2, 3, 1)
        return F.layer_norm(last, self.normalized_shape, self.weight, self.bias, self.eps).permute(0, 3, 1, 2)


def _stage(
    channels: int,
    drops: list[float],
    layer_scale: float,
    norm_layer: Norm,
    dynamic: bool,
    se_norm_layer: Norm | None,
) -> nn.Sequential:
    first, *between, last = drops
    parent = Block(channels, last, layer_scale, norm_layer)
    children = [Block(channels, drop, layer_scale, norm_layer, parent, dynamic, se_norm_layer) for drop in between]
    return nn.Sequential(Block(channels, first, layer_scale, norm_layer), *children, parent)
