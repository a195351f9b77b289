"""Layers that share kernels, a child convolution and its adapter, and dynamic convolutions under their usual names."""

from .adapter import Adapter
from .adaptive_conv import AdaptiveConv2DMod
from .child_conv import ChildConv2d
from .cond_conv import CondConv2d
from .conv_norm import conv_norm
from .dynamic_conv import DynamicConv2d
from .modulated_conv import ModulatedConv2d
from .od_conv import ODConv2d
from .squeeze_excite import SqueezeExcite

__all__ = [
    "Adapter",
    "AdaptiveConv2DMod",
    "ChildConv2d",
    "CondConv2d",
    "DynamicConv2d",
    "ModulatedConv2d",
    "ODConv2d",
    "SqueezeExcite",
    "conv_norm",
]
