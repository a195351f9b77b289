"""The op out of PyTorch's own operators, without a kernel per sample: what a careful user writes by hand.

To scale a channel of the input by c is to scale it in the kernel, f and bias come after the convolution, and static f
and s fold into the weight. Spatial attention per sample has no such place: see _spatial_per_sample.py.
"""

from collections.abc import Callable, Sequence
from math import gcd
from typing import TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from . import _spatial_per_sample as spatial

_convolution: Callable[..., Tensor] = torch.ops.aten.convolution

Ints: TypeAlias = Sequence[int]


def can_run(*args: object) -> tuple[bool, str]:
    return True, "runs anywhere"


runs_on = can_run


def conv(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    channel_attention: Tensor | None,
    filter_attention: Tensor | None,
    spatial_attention: Tensor | None,
    stride: Ints,
    padding: Ints,
    dilation: Ints,
    groups: int,
) -> Tensor:
    geometry = (stride, padding, dilation, False, (0, 0), groups)
    static_f, f = _by_kind(filter_attention, 1)
    static_s, s = _by_kind(spatial_attention, 2)
    input = _scaled(input, channel_attention)
    kernel = _folded(weight, static_f, static_s)
    if s is None and f is None:
        return _convolution(input, kernel, bias, *geometry)
    output = _before_epilogue(input, kernel, s, geometry)
    if f is not None:
        output.mul_(f[:, :, None, None])
    if bias is not None:
        output.add_(bias[:, None, None])
    return output


def conv_backward(
    grad_output: Tensor,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    channel_attention: Tensor | None,
    filter_attention: Tensor | None,
    spatial_attention: Tensor | None,
    stride: Ints,
    padding: Ints,
    dilation: Ints,
    groups: int,
    output_mask: Sequence[bool],
) -> tuple[Tensor | None, ...]:
    static_f, f = _by_kind(filter_attention, 1)
    static_s, s = _by_kind(spatial_attention, 2)
    scaled = _scaled(input, channel_attention)
    margin = padding if _leaves_its_map(input, stride) else (0, 0)
    if any(margin):
        scaled, padding = spatial.pad(scaled, margin), (0, 0)
    geometry = (stride, padding, dilation, False, (0, 0), groups)
    kernel = _dense(_folded(weight, static_f, static_s))
    for_input, for_weight, for_bias, for_c, for_f, for_s = output_mask
    grads: list[Tensor | None] = [None] * 6

    if for_bias:
        grads[2] = grad_output.sum((0, 2, 3))
    if f is not None:
        if for_f:
            grads[4] = (grad_output * _before_epilogue(scaled, kernel, s, geometry)).sum((2, 3))
        grad_output = grad_output * f[:, :, None, None]

    needs_input = for_input or for_c
    needs_kernel = for_weight or (for_f and f is None) or (for_s and s is None)
    if s is None:
        needs = (needs_input, needs_kernel, False)
        grad_scaled, grad_kernel, _ = torch.ops.aten.convolution_backward(
            grad_output, scaled, kernel, None, *geometry, needs
        )
    else:
        needs = (needs_input, needs_kernel, for_s)
        grad_scaled, grad_kernel, grads[5] = spatial.conv_backward(grad_output, scaled, kernel, s, geometry, needs)

    if needs_input and any(margin):
        grad_scaled = spatial.pad(grad_scaled, [-m for m in margin])
    if for_input:
        grads[0] = _scaled(grad_scaled, channel_attention)
    if for_c:
        assert channel_attention is not None
        grads[3] = (grad_scaled * input).sum((2, 3) if channel_attention.dim() == 2 else (0, 2, 3))
    if for_weight:
        grads[1] = _folded(grad_kernel, static_f, static_s)
    if for_f and f is None:
        grads[4] = (_folded(grad_kernel, None, static_s) * weight).sum((1, 2, 3))
    if for_s and s is None:
        grads[5] = (_folded(grad_kernel, static_f, None) * weight).sum((0, 1))
    return tuple(grads)


def squeeze_excite(
    input: Tensor, fc1_weight: Tensor, fc1_bias: Tensor | None, fc2_weight: Tensor, fc2_bias: Tensor | None
) -> Tensor:
    hidden = F.linear(input.mean((2, 3)), fc1_weight.flatten(1), fc1_bias).relu_()
    return F.linear(hidden, fc2_weight.flatten(1), fc2_bias).sigmoid_()


def _leaves_its_map(input: Tensor, stride: Ints) -> bool:
    """Whether a step of the kernel is larger than the map, padding aside.

    There oneDNN's bfloat16 gradient of the weight takes padding from memory that nobody wrote (torch 2.11 to 2.13).
    """
    return input.dtype == torch.bfloat16 and (input.shape[2] < stride[0] or input.shape[3] < stride[1])


def _by_kind(attention: Tensor | None, static_dim: int) -> tuple[Tensor | None, Tensor | None]:
    """The attention as (static, per sample)."""
    return (attention, None) if attention is not None and attention.dim() == static_dim else (None, attention)


def _scaled(input: Tensor, channel_attention: Tensor | None) -> Tensor:
    return input if channel_attention is None else input * channel_attention[..., None, None]


def _folded(kernel: Tensor, static_f: Tensor | None, static_s: Tensor | None) -> Tensor:
    """The kernel times what is static of f and s, in one pass over it."""
    f = None if static_f is None else static_f[:, None, None, None]
    if static_s is None:
        return kernel if f is None else kernel * f
    factor = static_s if f is None else f * static_s
    if not (kernel.is_cpu and kernel.is_contiguous()) or torch.compiler.is_compiling() or torch._C._get_tracing_state():
        return kernel * factor
    # Rows of a few taps are slow to multiply on the CPU: those of several channels are one.
    together = gcd(kernel.shape[1], 16)
    rows = kernel.unflatten(1, (-1, together)).flatten(2)
    scaled: Tensor = rows * factor.flatten(-2).tile(together)
    return scaled.view_as(kernel)


def _dense(kernel: Tensor) -> Tensor:
    """The kernel with the strides of one of two layouts, as aten needs it for the gradient without oneDNN.

    Others that amount to the same where a size is 1, and strides of overlapping windows, aten takes for channels_last.
    """
    _, channels, height, width = kernel.shape
    taps = height * width
    exact = (channels * taps, taps, width, 1), (channels * taps, 1, width * channels, channels)
    return kernel if kernel.stride() in exact else kernel.clone(memory_format=torch.contiguous_format)


def _before_epilogue(input: Tensor, kernel: Tensor, s: Tensor | None, geometry: spatial.Geometry) -> Tensor:
    if s is None:
        return _convolution(input, kernel, None, *geometry)
    return spatial.conv(input, kernel, s, geometry)
