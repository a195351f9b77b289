"""A convolution and the BatchNorm behind it, in inference as one."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.fx import Proxy

from ._bare import is_bare, is_plain_call
from .child_conv import ChildConv2d


def conv_norm(conv: nn.Module, norm: nn.Module, input: Tensor) -> Tensor:
    """norm(conv(input)), without a pass of its own for the norm where it is a fixed scale and shift for each filter.

    That is so for a BatchNorm in eval mode while gradients are off. Its scale then goes where it costs least: into the
    filter attention of a ChildConv2d, into the weight of an nn.Conv2d if that is smaller than the output, and nowhere
    else: a norm over a small map is cheap. Nothing is kept between calls, so no change of a parameter can be missed and
    no memory is spent on folded weights.

    Any other pair (BatchNorm in training mode, another norm, a hook on either of the two) is simply called, and so is
    all under autocast, torch.compile, torch.export, torch.jit.trace and torch.fx.

    Args:
        conv: the convolution, from [N, C_in, H, W] to [N, C_out, H_out, W_out].
        norm: what comes behind it, over C_out channels.
        input: [N, C_in, H, W], of any dtype that both take.

    Raises:
        What the two layers raise.
    """
    child = is_bare(conv, ChildConv2d)
    if not _is_affine(norm) or not (child or _is_plain(conv)) or not _is_plain_inference(input):
        return norm(conv(input))  # type: ignore[no-any-return]
    layer: Any = conv
    if child:
        return layer.scaled(input, *scale_and_shift(norm))  # type: ignore[no-any-return]
    weight: Tensor = layer.weight
    rows, columns = layer.stride
    if weight.numel() > len(input) * len(weight) * (input.shape[2] // rows) * (input.shape[3] // columns):
        return norm(conv(input))  # type: ignore[no-any-return]
    scale, shift = scale_and_shift(norm)
    weight = weight * scale[:, None, None, None]
    return F.conv2d(input, weight, shift, layer.stride, layer.padding, layer.dilation, layer.groups)


def _is_plain_inference(input: Tensor) -> bool:
    """Under autocast BatchNorm keeps its float32, which a filter attention would not."""
    if torch.is_grad_enabled() or isinstance(input, Proxy) or not is_plain_call():
        return False
    device = input.device.type
    autocast = torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)  # not on meta
    return input.dim() == 4 and not autocast


def _is_plain(conv: nn.Module) -> bool:
    return is_bare(conv, nn.Conv2d) and conv.bias is None and conv.padding_mode == "zeros"


def _is_affine(norm: nn.Module) -> bool:
    known = is_bare(norm, nn.BatchNorm2d, nn.SyncBatchNorm)
    return known and not norm.training and norm.running_mean is not None


def scale_and_shift(norm: Any) -> tuple[Tensor, Tensor]:
    """y = scale * x + shift, worked out in the statistics' own dtype, float32 at least."""
    mean = norm.running_mean
    dtype = torch.promote_types(mean.dtype, torch.float32)
    scale = torch.rsqrt(norm.running_var.to(dtype) + norm.eps)
    if norm.weight is not None:
        scale = scale * norm.weight
    shift = -mean * scale
    if norm.bias is not None:
        shift = shift + norm.bias
    return scale.to(mean.dtype), shift.to(mean.dtype)
