"""Transposed convolution: the gradient of conv with respect to its input, as an operation of its own."""

import torch
import torch.nn.functional as F
from torch import Tensor

from .call import Call, Pair
from .checks import check_conv_transpose
from .op import autocast

_conv_backward = torch.ops.kerneldna.conv_backward.default
_OF_INPUT = [True, False, False, False, False, False]


def conv_transpose(call: Call, output_padding: Pair) -> Tensor:
    """functional.conv_transpose2d of this call, whose weight is [C_in, C_out/groups, kh, kw], or K of these.

    To a conv2d with that weight the input is the gradient of its output, and c and f change places.
    """
    device_type = call.input.device.type if isinstance(call.input, Tensor) else "cpu"
    if torch.amp.is_autocast_available(device_type) and torch.is_autocast_enabled(device_type):
        call = Call(*autocast.cast(device_type, call))
    if torch._C._get_tracing_state() is not None or torch.compiler.is_exporting():
        return _in_plain_pytorch(call, output_padding)
    shape = check_conv_transpose("conv_transpose2d", call, output_padding)
    input, weight, bias, c, f, s, a = call.tensors
    # From a stride of output padding on, that convolution would have more pixels than input has: zeros.
    rows, columns = (extra // step for extra, step in zip(output_padding, call.stride, strict=True))
    if rows or columns:
        input = F.pad(call.input, (0, columns, 0, rows))
    # Of what stands for that convolution's input only the shape and the layout count.
    like = torch.empty_like(call.input.new_empty(shape), memory_format=call.memory_format)
    output: Tensor = _conv_backward(input, like, weight, None, f, c, s, *call.geometry, a, _OF_INPUT)[0]
    return output if bias is None else output + bias[..., None, None]


def _in_plain_pytorch(call: Call, output_padding: Pair) -> Tensor:
    """For graphs that leave for a place without this package: they serve every batch and image size."""
    if call.kernel_attention is not None:
        call = _kernels_as_channels(call)
    input, weight, bias, c, f, s, _ = call.tensors
    input = call.input if c is None else call.input * c[..., None, None]
    if call.kind("spatial_attention") == "per_sample":
        y = _taps_put_together(call._replace(input=input), output_padding)
    else:
        weight = call.weight if s is None else call.weight * s
        y = F.conv_transpose2d(
            input, weight, None, call.stride, call.padding, output_padding, call.groups, call.dilation
        )
    y = y if f is None else y * f[..., None, None]
    return y if bias is None else y + bias[..., None, None]


def _kernels_as_channels(call: Call) -> Call:
    """A mixture of K kernels as one with K times the channels, k inside each group: input'[n, (k, i)] is
    a[n, k] * c[n, i] * input[n, i], and weight'[(k, i)] is weight[k, i]."""
    a, c, groups = call.kernel_attention, call.channel_attention, call.groups
    assert a is not None
    input = call.input if c is None else call.input * c[..., None, None]
    input = input.unflatten(1, (groups, 1, -1)) * a[:, None, :, None, None, None]
    weight = call.weight.unflatten(1, (groups, -1)).transpose(0, 1).flatten(0, 2)
    return call._replace(input=input.flatten(1, 3), weight=weight, channel_attention=None, kernel_attention=None)


def _taps_put_together(call: Call, output_padding: Pair) -> Tensor:
    """A 1x1 convolution makes what each tap of the kernel gives, s scales it, and a depthwise transposed one, with
    kernels of a single one, adds it up where it belongs: F.fold, for exporters that have none."""
    channels, filters, kh, kw = call.weight.shape
    taps, groups = kh * kw, call.groups
    by_group = call.weight.reshape(groups, channels // groups, filters, taps).permute(0, 2, 3, 1)
    given = F.conv2d(call.input, by_group.flatten(0, 2)[..., None, None], groups=groups)
    s = call.spatial_attention.flatten(1)  # type: ignore[union-attr]
    given = (given.unflatten(1, (-1, taps)) * s[:, None, :, None, None]).flatten(1, 2)
    places = torch.eye(taps, dtype=given.dtype, device=given.device).view(taps, 1, kh, kw)
    places = places.repeat(filters * groups, 1, 1, 1)
    stride, padding, dilation, _ = call.geometry
    return F.conv_transpose2d(given, places, None, stride, padding, output_padding, filters * groups, dilation)
