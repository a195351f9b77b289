"""KernelDNA ResNet-18 and ResNet-50: 3x3 convolutions of the last two stages are children of those of later blocks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from os import PathLike
from typing import TypeAlias

from torch import Tensor, nn

from ..nn import ChildConv2d, conv_norm
from ..nn._checks import Norm
from ..nn.adapter import Attention
from ._checks import check_counts
from .network import Network, weighted_layers
from .published import PublishedNames
from .resnet_names import resnet18_names, resnet50_names
from .weights import load_weights

# The children of a stage: (block, convolution) -> the block whose conv2 is the parent.
Sharing: TypeAlias = Mapping[tuple[int, str], int]

STAGES = ("layer1", "layer2", "layer3", "layer4")


def kerneldna_resnet18(
    *,
    weights: str | PathLike[str] | None = None,
    num_classes: int = 1000,
    in_channels: int = 3,
    dynamic: bool = False,
    zero_init_residual: bool = False,
    replace_stride_with_dilation: Sequence[bool] | None = None,
    norm_layer: Norm | None = None,
    se_norm_layer: Norm | None = nn.BatchNorm1d,
) -> ResNet:
    """ResNet-18 as published with KernelDNA (arXiv 2503.23379): 9,240,798 parameters, 2.277 GMAC at 224x224.

    layer3 and layer4 have three blocks each, that is six 3x3 convolutions, of which three are children: conv2 of the
    first block and conv1 of the second borrow from conv2 of the second, conv1 of the third from conv2 of the third. The
    multiply-accumulates are those of all convolutions, of the classifier and of the two layers of each squeeze-excite.

    Args:
        weights: a file with a state_dict of this network, in our names or the authors' (resnet_names.py); None: at
            random as the authors', all convolutions from Kaiming's normal distribution.
        num_classes, zero_init_residual, norm_layer: as for torchvision.models.resnet18.
        se_norm_layer: the norm inside the squeeze-excites, norm_layer of `kerneldna_ops.nn.SqueezeExcite`; batches of
            one image train with nn.LayerNorm or None, not with BatchNorm, which is published.
        in_channels: channels of the images.
        dynamic: filter and spatial attention for each sample, as channel attention always is.
        replace_stride_with_dilation: refused, as by torchvision: basic blocks have no dilated form.

    Raises:
        ValueError: an argument is out of range, or the weights do not fit.
        OSError: the file of the weights cannot be read.
    """
    sharing: Sharing = {(0, "conv2"): 1, (1, "conv1"): 1, (2, "conv1"): 2}
    model = ResNet(
        "kerneldna_resnet18",
        BasicBlock,
        (2, 2, 3, 3),
        {"layer3": sharing, "layer4": sharing},
        num_classes=num_classes,
        in_channels=in_channels,
        dynamic=dynamic,
        zero_init_residual=zero_init_residual,
        replace_stride_with_dilation=replace_stride_with_dilation,
        norm_layer=norm_layer,
        se_norm_layer=se_norm_layer,
        kaiming=("conv1", *STAGES),
        published=resnet18_names(),
    )
    if weights is not None:
        load_weights(model, weights)
    return model


def kerneldna_resnet50(
    *,
    weights: str | PathLike[str] | None = None,
    num_classes: int = 1000,
    in_channels: int = 3,
    dynamic: bool = False,
    zero_init_residual: bool = False,
    replace_stride_with_dilation: Sequence[bool] | None = None,
    norm_layer: Norm | None = None,
    se_norm_layer: Norm | None = nn.BatchNorm1d,
) -> ResNet:
    """ResNet-50 as published with KernelDNA (arXiv 2503.23379): 22,778,060 parameters, 4.308 GMAC at 224x224.

    layer3 has seven blocks and layer4 three. Behind the first block they come in pairs, a child and its parent: the 3x3
    convolution of the former borrows from that of the latter. The multiply-accumulates are those of all convolutions,
    of the classifier and of the two layers of each squeeze-excite.

    Args:
        weights: a file with a state_dict of this network, in our names or the authors' (resnet_names.py); None: at
            random as the authors', that is from Kaiming's normal distribution up to layer2, and as PyTorch's layers
            start in layer3 and layer4.
        num_classes, zero_init_residual, replace_stride_with_dilation, norm_layer: as for torchvision.models.resnet50.
        se_norm_layer: as for `kerneldna_resnet18`.
        in_channels: channels of the images.
        dynamic: filter and spatial attention for each sample, as channel attention always is.

    Raises:
        ValueError: an argument is out of range, or the weights do not fit.
        OSError: the file of the weights cannot be read.
    """
    model = ResNet(
        "kerneldna_resnet50",
        Bottleneck,
        (3, 4, 7, 3),
        {"layer3": {(1, "conv2"): 2, (3, "conv2"): 4, (5, "conv2"): 6}, "layer4": {(1, "conv2"): 2}},
        num_classes=num_classes,
        in_channels=in_channels,
        dynamic=dynamic,
        zero_init_residual=zero_init_residual,
        replace_stride_with_dilation=replace_stride_with_dilation,
        norm_layer=norm_layer,
        se_norm_layer=se_norm_layer,
        kaiming=("conv1", "layer1", "layer2"),
        published=resnet50_names(),
    )
    if weights is not None:
        load_weights(model, weights)
    return model


class ResNet(Network):
    """Images [N, in_channels, H, W] -> scores [N, num_classes]. The modules have torchvision's names.

    Args:
        name: the builder's, for messages.
        block: BasicBlock or Bottleneck.
        depths: the number of blocks of each stage.
        sharing: the children of the stages that have some.
        replace_stride_with_dilation: one bool each for layer2, layer3 and layer4.
        kaiming: the modules whose convolutions start from Kaiming's normal distribution; the others as PyTorch's do.
        published: the authors' names of the parts, of the form with static attention.
        width: channels of the stem and of the 3x3 convolutions of layer1.
    """

    head = "fc"

    def __init__(
        self,
        name: str,
        block: type[BasicBlock] | type[Bottleneck],
        depths: Sequence[int],
        sharing: Mapping[str, Sharing],
        *,
        num_classes: int = 1000,
        in_channels: int = 3,
        dynamic: bool = False,
        zero_init_residual: bool = False,
        replace_stride_with_dilation: Sequence[bool] | None = None,
        norm_layer: Norm | None = None,
        se_norm_layer: Norm | None = nn.BatchNorm1d,
        kaiming: Sequence[str] = ("conv1", *STAGES),
        published: PublishedNames | None = None,
        width: int = 64,
    ) -> None:
        super().__init__(name, None if dynamic else published)
        check_counts(name, num_classes=num_classes, in_channels=in_channels)
        norm = nn.BatchNorm2d if norm_layer is None else norm_layer
        if not callable(norm):
            raise TypeError(f"{name}: norm_layer must be called with a number of channels, got {norm!r}")
        dilate = (False, False, False) if replace_stride_with_dilation is None else replace_stride_with_dilation
        if not isinstance(dilate, Sequence) or len(dilate) != 3:
            raise ValueError(
                f"{name}: replace_stride_with_dilation must have 3 values, for layer2, layer3 and layer4, got {dilate}"
            )

        self.conv1 = nn.Conv2d(in_channels, width, 7, stride=2, padding=3, bias=False)
        self.bn1 = norm(width)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        channels, dilation = width, 1
        self.feature_channels = {}
        for number, (stage, depth) in enumerate(zip(STAGES, depths, strict=True)):
            stride, previous_dilation = 1 if number == 0 else 2, dilation
            if number > 0 and dilate[number - 1]:
                stride, dilation = 1, dilation * stride
            blocks = [block(channels, width * 2**number, stride, previous_dilation, norm)]
            channels = width * 2**number * block.expansion
            blocks += [block(channels, width * 2**number, 1, dilation, norm) for _ in range(1, depth)]
            _share(blocks, sharing.get(stage, {}), dynamic, se_norm_layer)
            self.add_module(stage, nn.Sequential(*blocks))
            self.feature_channels[stage] = channels
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.num_classes = num_classes
        self.num_features = self.inplanes = channels  # torchvision's utilities read the second
        self.fc = nn.Linear(channels, num_classes)

        for part in kaiming:
            for layer in weighted_layers(getattr(self, part)):
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
        if zero_init_residual:
            for module in self.modules():
                if isinstance(module, BasicBlock | Bottleneck):
                    module.zero_last_norm()

    def forward(self, images: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(images))

    def forward_features(self, images: Tensor) -> Tensor:
        """The map of layer4, [N, num_features, H/32, W/32]."""
        x = self.maxpool(self.relu(conv_norm(self.conv1, self.bn1, images)))
        for stage in STAGES:
            x = getattr(self, stage)(x)
        return x  # type: ignore[no-any-return]

    def forward_head(self, features: Tensor) -> Tensor:
        """The scores [N, num_classes] from the map of layer4."""
        return self.fc(self.avgpool(features).flatten(1))  # type: ignore[no-any-return]


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut: [N, in_channels, H, W] -> [N, channels, H/stride, W/stride]."""

    expansion = 1

    def __init__(self, in_channels: int, channels: int, stride: int, dilation: int, norm: Norm) -> None:
        super().__init__()
        if dilation != 1:
            raise ValueError("replace_stride_with_dilation must be False for basic blocks, they have no dilated form")
        self.conv1 = _conv3x3(in_channels, channels, stride)
        self.bn1 = norm(channels)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = _conv3x3(channels, channels)
        self.bn2 = norm(channels)
        self.downsample = _downsample(in_channels, channels, stride, norm)

    def zero_last_norm(self) -> None:
        _zero_weight(self.bn2)

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(conv_norm(self.conv1, self.bn1, x))
        y = conv_norm(self.conv2, self.bn2, y)
        y += x if self.downsample is None else self.downsample(x)
        return self.relu(y)  # type: ignore[no-any-return]


class Bottleneck(nn.Module):
    """A 3x3 convolution between two of 1x1, and a shortcut.

    [N, in_channels, H, W] -> [N, 4 * channels, H/stride, W/stride].
    """

    expansion = 4

    def __init__(self, in_channels: int, channels: int, stride: int, dilation: int, norm: Norm) -> None:
        super().__init__()
        out_channels = channels * self.expansion
        self.conv1 = nn.Conv2d(in_channels, channels, 1, bias=False)
        self.bn1 = norm(channels)
        self.conv2 = _conv3x3(channels, channels, stride, dilation)
        self.bn2 = norm(channels)
        self.conv3 = nn.Conv2d(channels, out_channels, 1, bias=False)
        self.bn3 = norm(out_channels)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = _downsample(in_channels, out_channels, stride, norm)

    def zero_last_norm(self) -> None:
        _zero_weight(self.bn3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(conv_norm(self.conv1, self.bn1, x))
        y = self.relu(conv_norm(self.conv2, self.bn2, y))
        y = conv_norm(self.conv3, self.bn3, y)
        y += x if self.downsample is None else self.downsample(x)
        return self.relu(y)  # type: ignore[no-any-return]


class ConvNorm(nn.Sequential):
    """A convolution and its norm."""

    def forward(self, input: Tensor) -> Tensor:
        conv, norm = self
        return conv_norm(conv, norm, input)


def _share(
    blocks: Sequence[BasicBlock | Bottleneck], sharing: Sharing, dynamic: bool, se_norm_layer: Norm | None
) -> None:
    """Put children in the place of convolutions."""
    attention: Attention = "dynamic" if dynamic else "static"
    for (block, conv), parent in sharing.items():
        child = ChildConv2d(blocks[parent].conv2, filter=attention, spatial=attention, norm_layer=se_norm_layer)
        setattr(blocks[block], conv, child)


def _conv3x3(in_channels: int, channels: int, stride: int = 1, dilation: int = 1) -> nn.Conv2d:
    return nn.Conv2d(in_channels, channels, 3, stride, padding=dilation, dilation=dilation, bias=False)


def _downsample(in_channels: int, channels: int, stride: int, norm: Norm) -> ConvNorm | None:
    if stride == 1 and in_channels == channels:
        return None
    return ConvNorm(nn.Conv2d(in_channels, channels, 1, stride, bias=False), norm(channels))


def _zero_weight(norm: nn.Module) -> None:
    weight = getattr(norm, "weight", None)
    if weight is None:
        raise ValueError(f"zero_init_residual needs a norm_layer with a weight, got {type(norm).__name__} without")
    nn.init.zeros_(weight)
