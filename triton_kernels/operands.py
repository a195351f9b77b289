"""From the arguments of the op to what the kernels read: pixels with their channels together, and one scale.

    x      [N, H, W, C]    contiguous: a channels_last tensor as it stands
    w      [O, T, C/groups] contiguous, T = KH*KW taps: a channels_last weight as it stands
    g      [N, T, C]       g[n,t,i] = s[n,t] * c[n,i], or None where neither is per sample
    f      [N, O] or [O]   or None

Where nothing is per sample on the reduction axis, static c and s are multiplied into w (one pass over the weight) and
the main loop stays that of a plain convolution; where something is, static factors ride along in g for nothing.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from ..call import kind_of


class Scale(NamedTuple):
    """A factor per sample and, for g, per tap: the tensor and how far apart samples and taps lie, 0 if they share."""

    tensor: Tensor | None
    sample_stride: int = 0
    tap_stride: int = 0


ABSENT = Scale(None)


def pixels(image: Tensor) -> Tensor:
    """[N, C, H, W] as contiguous [N, H, W, C]; no copy of a channels_last tensor."""
    return image.permute(0, 2, 3, 1).contiguous()


def image(pixels: Tensor) -> Tensor:
    """[N, H, W, C] as the channels_last tensor [N, C, H, W]."""
    return pixels.permute(0, 3, 1, 2)


def taps_of(weight: Tensor) -> Tensor:
    """[O, C/groups, KH, KW] as contiguous [O, T, C/groups]; no copy of a channels_last weight."""
    return weight.permute(0, 2, 3, 1).contiguous().flatten(1, 2)


def sample_scale(factor: Tensor | None) -> Scale:
    """Filter attention (or channel attention) [N, O] or [O]."""
    if factor is None:
        return ABSENT
    return Scale(factor.contiguous(), factor.shape[1] if kind_of("filter_attention", factor) == "per_sample" else 0)


def reduction_scale(channel: Tensor | None, spatial: Tensor | None, channels: int) -> Scale:
    """g of channel attention [N, C] or [C] and spatial [N, KH, KW] or [KH, KW]; ABSENT if no sample has its own."""
    if "per_sample" not in (kind_of("channel_attention", channel), kind_of("spatial_attention", spatial)):
        return ABSENT
    if spatial is None:
        assert channel is not None
        return Scale(channel.contiguous(), channels)
    g = spatial.flatten(-2)[..., None]
    g = g.expand(*g.shape[:-1], channels) if channel is None else g * channel[..., None, :]
    return Scale(g.contiguous(), g.shape[-2] * channels, channels)


def folded(
    w: Tensor, channel: Tensor | None = None, filter: Tensor | None = None, spatial: Tensor | None = None
) -> Tensor:
    """w [O, T, C/groups] times static channel [C], filter [O] and spatial attention [KH, KW], each if given."""
    if spatial is not None:
        w = w * spatial.reshape(-1, 1)
    if channel is not None:
        groups = channel.numel() // w.shape[2]
        w = (w.unflatten(0, (groups, -1)) * channel.view(groups, 1, 1, -1)).flatten(0, 1)
    if filter is not None:
        w = w * filter[:, None, None]
    return w


def input_precision() -> str:
    """How tl.dot multiplies float32: in TF32 where PyTorch allows its own convolutions that ("tf32"), else "ieee"."""
    return "tf32" if torch.backends.cudnn.conv.fp32_precision == "tf32" else "ieee"
