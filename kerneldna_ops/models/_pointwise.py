"""1x1 convolutions as the networks with inverted bottlenecks share them."""

from torch import nn

from ..nn import ChildConv2d
from ..nn._check_arguments import Norm

EXPANSION_REDUCTION = 4
PROJECTION_REDUCTION = 24  # the input of a projection is wide, its squeeze-excite would be too


def expansion(
    in_channels: int,
    out_channels: int,
    parent: nn.Module | None,
    dynamic: bool,
    se_norm_layer: Norm | None,
    bias: bool = False,
) -> nn.Conv2d | ChildConv2d:
    """The widening 1x1 convolution of a block, a child if there is a parent."""
    return _pointwise(in_channels, out_channels, parent, EXPANSION_REDUCTION, dynamic, se_norm_layer, bias)


def projection(
    in_channels: int,
    out_channels: int,
    parent: nn.Module | None,
    dynamic: bool,
    se_norm_layer: Norm | None,
    bias: bool = False,
) -> nn.Conv2d | ChildConv2d:
    """The narrowing 1x1 convolution of a block, a child if there is a parent."""
    return _pointwise(in_channels, out_channels, parent, PROJECTION_REDUCTION, dynamic, se_norm_layer, bias)


def _pointwise(
    in_channels: int,
    out_channels: int,
    parent: nn.Module | None,
    reduction: int,
    dynamic: bool,
    se_norm_layer: Norm | None,
    bias: bool,
) -> nn.Conv2d | ChildConv2d:
    if parent is None:
        return nn.Conv2d(in_channels, out_channels, 1, bias=bias)
    kind = "dynamic" if dynamic else "static"
    hidden = max(1, in_channels // reduction)
    return ChildConv2d(
        parent,  # type: ignore[arg-type]
        bias=bias,
        hidden=hidden,
        filter=kind,  # type: ignore[arg-type]
        spatial=None,
        norm_layer=se_norm_layer,
    )
