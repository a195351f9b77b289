"""The usual form of dynamic convolutions, as their authors have it: N kernels, and a convolution of N groups."""

from typing import Any

import torch.nn.functional as F
from torch import Tensor

from kerneldna_ops import nn

from .cond_conv import CondConv2d


def grouped_conv2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    channel_attention: Tensor | None = None,
    filter_attention: Tensor | None = None,
    spatial_attention: Tensor | None = None,
    kernel_attention: Tensor | None = None,
    **geometry: Any,
) -> Tensor:
    """kerneldna_ops.functional.conv2d, and conv2d_per_sample where `weight` is [N, C_out, C_in/groups, kh, kw]."""
    if kernel_attention is not None:
        weight = (kernel_attention @ weight.flatten(1)).view(len(x), *weight.shape[1:])
        bias = None if bias is None else kernel_attention @ bias
    if spatial_attention is not None:
        weight = weight * spatial_attention[:, None, None]
    convolve = per_sample_conv2d if weight.dim() == 5 else F.conv2d
    y = convolve(x if channel_attention is None else x * channel_attention[..., None, None], weight, **geometry)
    y = y if filter_attention is None else y * filter_attention[..., None, None]
    return y if bias is None else y + bias[..., None, None]


def per_sample_conv2d(x: Tensor, kernels: Tensor, *, groups: int = 1, **geometry: Any) -> Tensor:
    """Convolves sample n with kernels[n], [N, C_out, C_in/groups, kh, kw]."""
    samples = x.reshape(1, -1, *x.shape[2:])
    y = F.conv2d(samples, kernels.flatten(0, 1), groups=len(x) * groups, **geometry)
    return y.view(len(x), -1, *y.shape[2:])


class _Grouped:
    def _convolve(self, input: Tensor, weight: Tensor, bias: Tensor | None = None, **attentions: Any) -> Tensor:
        geometry = {name: getattr(self, name) for name in ("stride", "padding", "dilation", "groups")}
        return grouped_conv2d(input, weight, bias, **attentions, **geometry)


class GroupedCondConv2d(_Grouped, CondConv2d):
    pass


class GroupedODConv2d(_Grouped, nn.ODConv2d):
    pass
