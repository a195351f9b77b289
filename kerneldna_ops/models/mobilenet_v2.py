"""KernelDNA MobileNetV2: the pointwise convolutions of a stage are children of those of its last block."""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike

import torch.nn.functional as F
from torch import Tensor, nn

from ..nn import ChildConv2d, conv_norm
from ..nn._checks import Norm
from ._checks import check_counts
from ._pointwise import EXPANSION, PROJECTION, pointwise
from .network import Network, weighted_layers
from .published import PublishedNames
from .weights import load_weights

# Of each stage: expand ratio, channels at width 1, blocks, stride of the first block.
STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
# The authors' names within a block -> ours.
_OWNER_NAMES = {
    "pw1": "conv.0.0",
    "bn1": "conv.0.1",
    "dw": "conv.1.0",
    "bn2": "conv.1.1",
    "pw2": "conv.2",
    "bn3": "conv.3",
}
_CHILD_NAMES = {
    "se1.se": "conv.0.0.adapter.se",
    "bn1": "conv.0.1",
    "dwconv": "conv.1.0",
    "bn2": "conv.1.1",
    "se3.se": "conv.2.adapter.se",
    "bn3": "conv.3",
}


def kerneldna_mobilenet_v2(
    *,
    weights: str | PathLike[str] | None = None,
    num_classes: int = 1000,
    in_channels: int = 3,
    width_mult: float = 1.0,
    inverted_residual_setting: Sequence[Sequence[int]] | None = None,
    round_nearest: int = 8,
    norm_layer: Norm | None = None,
    se_norm_layer: Norm | None = nn.BatchNorm1d,
    dropout: float = 0.0,
    dynamic: bool = False,
) -> MobileNetV2:
    """MobileNetV2 as published with KernelDNA (arXiv 2503.23379).

    3,136,840 parameters and 0.3009 GMAC at 224x224 at width 1, 1,878,232 and 0.0972 at width 0.5. Both count the two
    layers of each squeeze-excite.

    Args:
        weights: a file with a state_dict of this network, in our names or in the authors'; None: weights at random.
        num_classes, width_mult, inverted_residual_setting, round_nearest, norm_layer: as for
            torchvision.models.mobilenet_v2.
        in_channels: channels of the images.
        se_norm_layer: as for `kerneldna_resnet18`.
        dropout: in front of the classifier; none as published.
        dynamic: filter attention per sample. A 1x1 kernel has one tap: spatial attention would be one number per
            sample, and there is none, as published.

    Raises:
        ValueError: an argument is out of range, or the weights are those of another network.
        OSError: the file of the weights cannot be read.
    """
    settings = STAGES if inverted_residual_setting is None else inverted_residual_setting
    sizes = num_classes, in_channels, width_mult, settings, round_nearest
    model = MobileNetV2(*sizes, norm_layer, dropout, dynamic, se_norm_layer)
    if weights is not None:
        load_weights(model, weights)
    return model


def kerneldna_mobilenet_v2_050(**arguments: object) -> MobileNetV2:
    """`kerneldna_mobilenet_v2` at half the width, with its other arguments."""
    return kerneldna_mobilenet_v2(width_mult=0.5, **arguments)  # type: ignore[arg-type]


class MobileNetV2(Network):
    """Images [N, in_channels, H, W] -> scores [N, num_classes]. The modules have torchvision's names.

    A stage of at least three blocks shares its kernels: the first block, which changes the resolution or the width, has
    its own; the last one is the parent; those between are its children. Depthwise convolutions are not shared.
    """

    head = "classifier.1"

    def __init__(
        self,
        num_classes: int,
        in_channels: int,
        width_mult: float,
        settings: Sequence[Sequence[int]],
        round_nearest: int,
        norm_layer: Norm | None,
        dropout: float,
        dynamic: bool,
        se_norm_layer: Norm | None = nn.BatchNorm1d,
    ) -> None:
        name = "kerneldna_mobilenet_v2"
        super().__init__(name, _published_names() if settings is STAGES and not dynamic else None)
        check_counts(name, num_classes=num_classes, in_channels=in_channels, round_nearest=round_nearest)
        if not width_mult > 0:
            raise ValueError(f"{name}: width_mult must be above 0, got {width_mult}")
        if not settings or any(len(setting) != 4 or min(setting) < 1 for setting in settings):
            raise ValueError(
                f"{name}: inverted_residual_setting must list, for each stage, expand ratio, channels, blocks and"
                f" stride, all at least 1, got {settings}"
            )
        norm = norm_layer or nn.BatchNorm2d

        channels = _divisible(32 * width_mult, round_nearest)
        features: list[nn.Module] = [ConvNorm(nn.Conv2d(in_channels, channels, 3, 2, padding=1, bias=False), norm)]
        self.feature_channels: dict[str, int] = {}
        reduction = 2
        for expand_ratio, width, blocks, stride in settings:
            if stride > 1 and reduction > 2:
                self.feature_channels[f"features.{len(features) - 1}"] = channels
            reduction *= stride
            out_channels = _divisible(width * width_mult, round_nearest)
            features += _stage(channels, out_channels, blocks, stride, expand_ratio, norm, dynamic, se_norm_layer)
            channels = out_channels
        self.feature_channels[f"features.{len(features) - 1}"] = channels
        self.num_features = _divisible(1280 * max(1.0, width_mult), round_nearest)
        features.append(ConvNorm(nn.Conv2d(channels, self.num_features, 1, bias=False), norm))
        self.features = nn.Sequential(*features)
        self.num_classes = num_classes
        classifier = nn.Linear(self.num_features, num_classes)
        self.classifier = nn.Sequential(nn.Dropout(dropout), classifier)

        for layer in weighted_layers(self):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
        nn.init.normal_(classifier.weight, 0, 0.01)
        nn.init.zeros_(classifier.bias)

    def forward(self, images: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(images))

    def forward_features(self, images: Tensor) -> Tensor:
        """The map [N, num_features, H/32, W/32]."""
        return self.features(images)  # type: ignore[no-any-return]

    def forward_head(self, features: Tensor) -> Tensor:
        """The scores [N, num_classes] from that map."""
        return self.classifier(F.adaptive_avg_pool2d(features, 1).flatten(1))  # type: ignore[no-any-return]


class ConvNorm(nn.Sequential):
    """Convolution, norm and ReLU6: [N, C_in, H, W] -> [N, C_out, H', W']."""

    def __init__(self, conv: nn.Conv2d | ChildConv2d, norm_layer: Norm) -> None:
        super().__init__(conv, norm_layer(conv.out_channels), nn.ReLU6(inplace=True))

    def forward(self, input: Tensor) -> Tensor:
        conv, norm, activation = self
        return activation(conv_norm(conv, norm, input))  # type: ignore[no-any-return]


class InvertedResidual(nn.Module):
    """Pointwise expansion, depthwise 3x3, pointwise projection: [N, in_channels, H, W] -> [N, out_channels, H', W'].

    With a parent, a block of the same widths, both pointwise convolutions are children of the parent's.
    """

    conv: nn.Sequential

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        stride: int,
        expand_ratio: int,
        norm_layer: Norm,
        parent: InvertedResidual | None = None,
        dynamic: bool = False,
        se_norm_layer: Norm | None = nn.BatchNorm1d,
    ) -> None:
        super().__init__()
        hidden = in_channels * expand_ratio
        layers: list[nn.Module] = []
        if expand_ratio != 1:
            owner = None if parent is None else parent.conv[0][0]  # type: ignore[index]
            layers.append(
                ConvNorm(pointwise(in_channels, hidden, owner, EXPANSION, dynamic, se_norm_layer), norm_layer)
            )
        depthwise = nn.Conv2d(hidden, hidden, 3, stride, padding=1, groups=hidden, bias=False)
        layers.append(ConvNorm(depthwise, norm_layer))
        owner = None if parent is None else parent.conv[-2]
        layers += [pointwise(hidden, out_channels, owner, PROJECTION, dynamic, se_norm_layer), norm_layer(out_channels)]
        self.conv = nn.Sequential(*layers)
        self.residual = stride == 1 and in_channels == out_channels

    def forward(self, input: Tensor) -> Tensor:
        *before, project, norm = self.conv
        output = input
        for layer in before:
            output = layer(output)
        output = conv_norm(project, norm, output)
        return input + output if self.residual else output


def _stage(
    in_channels: int,
    out_channels: int,
    blocks: int,
    stride: int,
    expand_ratio: int,
    norm_layer: Norm,
    dynamic: bool,
    se_norm_layer: Norm | None,
) -> list[nn.Module]:
    first = InvertedResidual(in_channels, out_channels, stride, expand_ratio, norm_layer)
    if blocks == 1:
        return [first]

    def same_width(parent: InvertedResidual | None = None) -> InvertedResidual:
        return InvertedResidual(out_channels, out_channels, 1, expand_ratio, norm_layer, parent, dynamic, se_norm_layer)

    parent = same_width()
    return [first, *(same_width(parent) for _ in range(blocks - 2)), parent]


def _divisible(channels: float, divisor: int) -> int:
    """The multiple of `divisor` next to `channels`, not below 9/10 of it (MobileNet's rule)."""
    nearest = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return nearest + divisor if nearest < 0.9 * channels else nearest


def _published_names() -> PublishedNames:
    """The authors put all blocks of a stage that shares into its last place, under names of their own."""
    modules: dict[str, str] = {}
    filter_attention: dict[str, tuple[str, ...]] = {}
    place = 0  # of the stage's last block; 0 is the stem
    for _, _, blocks, _ in STAGES:
        first, place = place + 1, place + blocks
        if blocks < 3:
            continue
        stage = f"features.{place}"
        for block, own in ((f"{stage}.transition", first), (f"{stage}.last_block", place)):
            modules.update({f"{block}.layers.{name}": f"features.{own}.{ours}" for name, ours in _OWNER_NAMES.items()})
        children = [f"features.{number}" for number in range(first + 1, place)]
        for number, child in enumerate(children):
            modules.update(
                {f"{stage}.blocks.{number}.{name}": f"{child}.{ours}" for name, ours in _CHILD_NAMES.items()}
            )
        filter_attention[f"{stage}.static_filter_attn1"] = tuple(f"{child}.conv.0.0" for child in children)
        filter_attention[f"{stage}.static_filter_attn3"] = tuple(f"{child}.conv.2" for child in children)
    return PublishedNames(modules, filter_attention)
