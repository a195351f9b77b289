"""1x1 convolutions as the networks with inverted bottlenecks share them."""

from torch import nn

from ..nn import ChildConv2d
from ..nn._checks import Norm

EXPANSION = 4  # the reduction in the gate of the widening convolution of a block
PROJECTION = 24  # and of the narrowing one, whose input is wide, and its squeeze-excite would be too


def pointwise(
    in_channels: int,
    out_channels: int,
    parent: nn.Module | None,
    reduction: int,
    dynamic: bool,
    se_norm_layer: Norm | None,
    bias: bool = False,
) -> nn.Conv2d | ChildConv2d:
    """A child if there is a parent, with an in_channels // reduction wide gate."""
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
