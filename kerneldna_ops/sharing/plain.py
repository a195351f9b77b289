"""A child convolution out of torch.nn's own modules and operators."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_linear_bn_eval

from ..nn import ChildConv2d, SqueezeExcite
from ..nn._bare import is_bare


class ModulatedConv2d(nn.Module):
    """What of a `ChildConv2d` depends on the sample, in eval mode, out of modules and operators of torch.nn alone.

    y = filter(h) * conv(x * channel(h)) + bias, with the features h of x's mean over H and W. All that is the same for
    all samples is in the weight of `conv`. Spatial attention per sample has no place in a convolution: then `taps`
    makes of each channel one for each tap of the kernel, these are scaled, and `conv` is 1x1. That needs no kernel per
    sample, and exports in three operators for any batch and image size.

    Args:
        conv: the convolution; with `filter` without bias.
        bias: [C_out], only with `filter`.
        features: from the input [N, C_in, H, W] to h [N, R].
        channel, filter, spatial: from h to factors [N, C_in], [N, C_out] and [N, kh * kw], or None.
        taps: with `spatial`, from [N, C_in, H, W] to [N, C_in * kh * kw, H_out, W_out].

    Shape: input [N, C_in, H, W], output [N, C_out, H_out, W_out].
    """

    bias: nn.Parameter | None

    def __init__(
        self,
        conv: nn.Conv2d,
        bias: nn.Parameter | None,
        features: nn.Module,
        channel: nn.Module | None,
        filter: nn.Module | None,
        spatial: nn.Module | None,
        taps: nn.Conv2d | None,
    ) -> None:
        super().__init__()
        self.conv = conv
        self.register_parameter("bias", bias)
        self.features = features
        self.channel, self.filter, self.spatial = channel, filter, spatial
        self.taps = taps

    def forward(self, input: Tensor) -> Tensor:
        hidden = self.features(input)
        if self.channel is not None:
            input = input * self.channel(hidden)[:, :, None, None]
        if self.spatial is not None and self.taps is not None:
            input = self.taps(input) * self.spatial(hidden).repeat(1, self.taps.in_channels)[:, :, None, None]
        output: Tensor = self.conv(input)
        if self.filter is not None:
            output = output * self.filter(hidden)[:, :, None, None]
        return output if self.bias is None else output + self.bias[:, None, None]


@torch.no_grad()
def plain(child: ChildConv2d) -> nn.Conv2d | ModulatedConv2d:
    """The same function as the child in eval mode, with parameters of its own.

    Attention is static not only where it was meant to be, but also where the layer it comes from has no weight other
    than zero, as all have at the start. With none per sample the result is an nn.Conv2d.
    """
    adapter = child.adapter
    kh, kw = child.kernel_size
    weight = child._borrowed()
    dtype = weight.dtype
    weight = weight.to(torch.promote_types(dtype, torch.float32))
    c, channel = _split(adapter.se.fc2, child.in_channels, 2 if adapter.identity else 1, weight)
    f, filter = _split(adapter.filter_head, child.out_channels, 2, weight)
    s, spatial = _split(adapter.spatial_head, kh * kw, 2, weight)

    static_f, static_s = adapter.static()
    if static_f is not None:
        f = f * static_f
    if static_s is not None:
        s = s.view(kh, kw) * static_s

    weight = weight.unflatten(0, (child.groups, -1))  # [groups, C_out/groups, C_in/groups, kh, kw]
    weight = weight * c.view(child.groups, 1, -1, 1, 1) * f.view(child.groups, -1, 1, 1, 1) * s.view(kh, kw)
    weight = weight.flatten(0, 1).to(dtype)
    bias = None if child.bias is None else child.bias.clone()
    inner, outer = (bias, None) if filter is None else (None, bias)
    if spatial is None:
        conv, taps = plain_conv(child, weight, inner), None
    else:
        conv, taps = _conv_of_taps(child.groups, weight, inner), _taps(child, weight)
    if channel is filter is spatial is None:
        return conv
    features = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), *_before_relu(adapter.se), nn.ReLU())
    outside = None if outer is None else nn.Parameter(outer)
    return ModulatedConv2d(conv, outside, features, channel, filter, spatial, taps)


def plain_conv(like: nn.Conv2d | ChildConv2d, weight: Tensor, bias: Tensor | None) -> nn.Conv2d:
    """An nn.Conv2d with the geometry of another layer, and this weight and bias."""
    return _conv(weight, bias, like.groups, like.stride, like.padding, like.dilation, like.padding_mode)


def _conv_of_taps(groups: int, weight: Tensor, bias: Tensor | None) -> nn.Conv2d:
    """The 1x1 convolution that sums what `_taps` makes, with a weight [C_out, C_in/groups, kh, kw]."""
    return _conv(weight.flatten(1)[:, :, None, None], bias, groups)


def _taps(child: ChildConv2d, weight: Tensor) -> nn.Conv2d:
    """Of each channel what each tap of the kernel sees: a depthwise convolution with kernels that are 1 at one tap."""
    kh, kw = child.kernel_size
    one_hot = torch.eye(kh * kw, dtype=weight.dtype, device=weight.device).view(kh * kw, 1, kh, kw)
    kernels = one_hot.repeat(child.in_channels, 1, 1, 1)
    taps = _conv(kernels, None, child.in_channels, child.stride, child.padding, child.dilation, child.padding_mode)
    return taps.requires_grad_(False)


def _conv(
    weight: Tensor,
    bias: Tensor | None,
    groups: int,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    padding_mode: Any = "zeros",
) -> nn.Conv2d:
    filters, channels, kh, kw = weight.shape
    sizes = (channels * groups, filters, (kh, kw))
    conv = nn.Conv2d(*sizes, stride, padding, dilation, groups, False, padding_mode, device="meta")
    conv.weight = nn.Parameter(weight)
    conv.bias = None if bias is None else nn.Parameter(bias)
    return conv


def _split(head: nn.Linear | None, size: int, factor: int, like: Tensor) -> tuple[Tensor, nn.Sequential | None]:
    """factor * sigmoid(head(h)) as a static part [size], and a gate between 0 and 1 if the rest depends on h."""
    if head is None:
        return like.new_ones(size), None
    if not head.weight.any():
        bias = like.new_zeros(size) if head.bias is None else head.bias.to(like.dtype)
        return factor * torch.sigmoid(bias), None
    gate = nn.Sequential(copy.deepcopy(head), nn.Sigmoid())
    return like.new_full((size,), factor), gate


def _before_relu(se: SqueezeExcite) -> list[nn.Module]:
    """fc1 and its norm, as one where the norm is a fixed scale and shift; worked out in float32 at least."""
    fc1, norm = copy.deepcopy(se.fc1), copy.deepcopy(se.bn)
    if not is_bare(norm, nn.BatchNorm1d, nn.SyncBatchNorm) or norm.running_mean is None or norm.weight is None:
        return [fc1, norm]
    dtype = fc1.weight.dtype
    at_least = torch.promote_types(dtype, torch.float32)
    return [fuse_linear_bn_eval(fc1.to(at_least), norm.to(at_least)).to(dtype)]  # type: ignore[arg-type]
