"""A convolution and the BatchNorm behind it, in inference as one."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ._bare import are_plain, is_bare, is_plain_call, under_autocast
from .child_conv import ChildConv2d


def conv_norm(conv: nn.Module, norm: nn.Module, input: Tensor) -> Tensor:
    """norm(conv(input)), without a pass of its own for the norm where it is a fixed scale and shift for each filter.

    That is so for a BatchNorm in eval mode while gradients are off. Its scale then goes where it costs least: into the
    filter attention of a ChildConv2d, into the weight of an nn.Conv2d if that is smaller than the output, and nowhere
    else: a norm over a small map is cheap. Nothing is kept between calls, so no change of a parameter can be missed and
    no memory is spent on folded weights.

    Any other pair (BatchNorm in training mode or of another dtype, another norm, a hook, a forward put on one of the
    two) is simply called, and so is all under autocast and the transforms of torch.compile, torch.jit, torch.fx and
    torch.func.

    Args:
        conv: the convolution, from [N, C_in, H, W] to [N, C_out, H_out, W_out].
        norm: what comes behind it, over C_out channels.
        input: [N, C_in, H, W], of any dtype that both take.

    Raises:
        What the two layers raise.
    """
    if torch.is_grad_enabled() or not is_plain_call() or not _is_one(conv, norm, input):
        return norm(conv(input))  # type: ignore[no-any-return]
    layer: Any = conv
    if isinstance(conv, ChildConv2d):
        return layer.scaled(input, *scale_and_shift(norm))  # type: ignore[no-any-return]
    weight: Tensor = layer.weight
    rows, columns = layer.stride
    if weight.numel() > len(input) * len(weight) * (input.shape[2] // rows) * (input.shape[3] // columns):
        return norm(conv(input))  # type: ignore[no-any-return]
    scale, shift = scale_and_shift(norm)
    weight = weight * scale[:, None, None, None]
    return F.conv2d(input, weight, shift, layer.stride, layer.padding, layer.dilation, layer.groups)


def _is_one(conv: Any, norm: Any, input: Tensor) -> bool:
    """Whether both are what they were built as, of the dtype of input, and the norm is a fixed scale and shift."""
    child = is_bare(conv, ChildConv2d) and is_bare(conv.parent, nn.Conv2d)
    plain_conv = child or (is_bare(conv, nn.Conv2d) and conv.bias is None and conv.padding_mode == "zeros")
    if not plain_conv or not is_bare(norm, nn.BatchNorm2d, nn.SyncBatchNorm) or norm.training:
        return False
    weight = conv.parent.weight if child else conv.weight
    if not are_plain(input, weight, norm.running_mean, norm.running_var) or input.dim() != 4:
        return False
    return not under_autocast(input)  # where BatchNorm keeps its float32, which a filter attention would not


def scale_and_shift(norm: Any) -> tuple[Tensor, Tensor]:
    """y = scale * x + shift, worked out in the statistics' own dtype, float32 at least."""
    mean, weight, bias = norm.running_mean, norm.weight, norm.bias
    dtype = torch.promote_types(mean.dtype, torch.float32)
    scale = torch.rsqrt(norm.running_var.to(dtype) + norm.eps)
    if weight is not None:
        scale = scale * weight
    shift = -mean * scale if bias is None else torch.addcmul(bias, mean, scale, value=-1)
    return scale.to(mean.dtype), shift.to(mean.dtype)
