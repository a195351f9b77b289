"""Layers that share kernels: a child convolution borrows its parent's weight, and an adapter makes it its own."""

from .adapter import Adapter
from .child_conv import ChildConv2d
from .conv_norm import conv_norm
from .squeeze_excite import SqueezeExcite

__all__ = ["Adapter", "ChildConv2d", "SqueezeExcite", "conv_norm"]
