"""The op out of PyTorch's own operators, without a kernel per sample: what a careful user writes by hand.

To scale a channel of the input by c is to scale it in the kernel, f and bias come after the convolution, and static f
and s fold into the weight. Spatial attention per sample has no such place. It runs in one of two exact ways:

* By tap: the convolution is the sum of kh * kw convolutions with a 1x1 kernel, each scaled as it is added.
* By sample: one convolution per sample, with a kernel scaled for it that lives no longer than that.

The first touches the output once more per tap, the second the weight once more per sample.

With a kernel for each sample, given or mixed, there are two exact ways too: by sample, as above (_sample_kernels.py),
and for mixtures K times the channels (_kernel_fold.py).
"""

from collections.abc import Callable, Iterator, Sequence
from math import gcd
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..call import BackwardCall, Call
from . import _kernel_fold, _sample_kernels
from ._sample_kernels import Geometry

_convolution: Callable[..., Tensor] = torch.ops.aten.convolution
_convolution_backward = torch.ops.aten.convolution_backward
_ONE_TAP = ((0, 0), (1, 1), False, (0, 0))  # padding, dilation, transposed, output_padding


def can_run(call: object) -> tuple[bool, str]:
    return True, "runs anywhere"


runs_on = can_run


def conv(call: Call) -> Tensor:
    if call.kernels != "shared":
        return _conv_with_kernels(call)
    input, weight, bias, _, _, _, stride, padding, dilation, groups, _ = call
    geometry = (stride, padding, dilation, False, (0, 0), groups)
    static_f, f = call.by_kind("filter_attention")
    static_s, s = call.by_kind("spatial_attention")
    input = _scaled(input, call.channel_attention)
    kernel = _folded(weight, static_f, static_s)
    if s is None and f is None and call.kind("bias") != "per_sample":
        return _convolution(input, kernel, bias, *geometry)
    output = _before_epilogue(input, kernel, s, geometry)
    if f is not None:
        output.mul_(f[:, :, None, None])
    if bias is not None:
        output.add_(bias[..., None, None])
    return output


def _conv_with_kernels(call: Call) -> Tensor:
    if not len(call.input):
        return call.input.new_empty(call.output_shape)
    return conv(_kernel_fold.folded(call)) if _kernel_fold.pays(call) else _sample_kernels.conv(call)


def _backward_with_kernels(backward: BackwardCall) -> tuple[Tensor | None, ...]:
    call = backward.forward
    if not _kernel_fold.pays(call):
        return _sample_kernels.conv_backward(backward)
    return _kernel_fold.unfolded(backward, conv_backward(_kernel_fold.folded_backward(backward)))


def conv_backward(backward: BackwardCall) -> tuple[Tensor | None, ...]:
    grad_output, call, output_mask = backward
    if call.kernels != "shared":
        return _backward_with_kernels(backward)
    input, weight, _, channel_attention, _, _, stride, padding, dilation, groups, _ = call
    static_f, f = call.by_kind("filter_attention")
    static_s, s = call.by_kind("spatial_attention")
    scaled = _scaled(input, channel_attention)
    margin = padding if _leaves_its_map(input, stride) else (0, 0)
    if any(margin):
        scaled, padding = _pad(scaled, margin), (0, 0)
    geometry = (stride, padding, dilation, False, (0, 0), groups)
    kernel = _dense(_folded(weight, static_f, static_s))
    for_input, for_weight, for_bias, for_c, for_f, for_s, _ = output_mask
    grads: list[Tensor | None] = [None] * len(output_mask)

    if for_bias:
        grads[2] = grad_output.sum((2, 3) if call.kind("bias") == "per_sample" else (0, 2, 3))
    if f is not None:
        if for_f:
            grads[4] = (grad_output * _before_epilogue(scaled, kernel, s, geometry)).sum((2, 3))
        grad_output = grad_output * f[:, :, None, None]

    needs_input = for_input or for_c
    needs_kernel = for_weight or (for_f and f is None) or (for_s and s is None)
    if s is None:
        needs = (needs_input, needs_kernel, False)
        grad_scaled, grad_kernel, _ = _convolution_backward(grad_output, scaled, kernel, None, *geometry, needs)
    else:
        needs = (needs_input, needs_kernel, for_s)
        grad_scaled, grad_kernel, grads[5] = _spatial_backward(grad_output, scaled, kernel, s, geometry, needs)

    if needs_input and any(margin):
        grad_scaled = _pad(grad_scaled, [-m for m in margin])
    if for_input:
        grads[0] = _scaled(grad_scaled, channel_attention)
    if for_c:
        assert channel_attention is not None
        grads[3] = (grad_scaled * input).sum((2, 3) if call.kind("channel_attention") == "per_sample" else (0, 2, 3))
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


def _leaves_its_map(input: Tensor, stride: Sequence[int]) -> bool:
    """Whether a step of the kernel is larger than the map, padding aside.

    There oneDNN's bfloat16 gradient of the weight takes padding from memory that nobody wrote (torch 2.11 to 2.13).
    """
    return input.dtype == torch.bfloat16 and (input.shape[2] < stride[0] or input.shape[3] < stride[1])


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


def _before_epilogue(input: Tensor, kernel: Tensor, s: Tensor | None, geometry: Geometry) -> Tensor:
    if s is None:
        return _convolution(input, kernel, None, *geometry)
    return _spatial_conv(input, kernel, s, geometry)


def by_tap(input: Tensor, weight: Tensor, geometry: Geometry) -> bool:
    """Whether the taps are the faster way: many channels on few pixels, where scaling the weight costs most.

    The limit is where the two cross on a CPU, 64 channels at 56x56 to 512 at 7x7. A low precision never goes by tap,
    because it would also be the precision of the sum.
    """
    stride = geometry[0]
    pixels = input.shape[2] * input.shape[3] // (stride[0] * stride[1])
    precise = weight.dtype in (torch.float32, torch.float64)
    return precise and len(input) > 1 and 4 * pixels < weight.shape[1]


def _spatial_conv(input: Tensor, weight: Tensor, s: Tensor, geometry: Geometry) -> Tensor:
    if not len(input):
        return _convolution(input, weight, None, *geometry)
    if by_tap(input, weight, geometry):
        return _conv_by_tap(input, weight, s, geometry)
    return _sample_kernels.conv_of_each(input, (weight * s_n for s_n in s), geometry)


def _spatial_backward(
    grad_output: Tensor, input: Tensor, weight: Tensor, s: Tensor, geometry: Geometry, mask: Sequence[bool]
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """The gradients of input, weight and s that the mask asks for."""
    if len(input) and by_tap(input, weight, geometry):
        return _conv_backward_by_tap(grad_output, input, weight, s, geometry, mask)
    grad_input = torch.empty_like(input) if mask[0] else None
    grad_weight = torch.zeros_like(weight, dtype=_sum_dtype(weight)) if mask[1] else None
    grad_s = torch.empty_like(s) if mask[2] else None
    for n, s_n in enumerate(s):
        one = slice(n, n + 1)
        grad_x, grad_kernel, _ = _convolution_backward(
            grad_output[one], input[one], weight * s_n, None, *geometry, (mask[0], mask[1] or mask[2], False)
        )
        if grad_input is not None:
            grad_input[one] = grad_x
        if grad_weight is not None:
            grad_weight.addcmul_(grad_kernel, s_n)
        if grad_s is not None:
            grad_s[n] = (grad_kernel * weight).sum((0, 1))
    return grad_input, None if grad_weight is None else grad_weight.to(weight.dtype), grad_s


def _sum_dtype(tensor: Tensor) -> torch.dtype:
    return torch.float64 if tensor.dtype == torch.float64 else torch.float32


def _conv_by_tap(input: Tensor, weight: Tensor, s: Tensor, geometry: Geometry) -> Tensor:
    stride, padding, dilation, *_, groups = geometry
    padded = _pad(input, padding)
    output: Tensor | None = None
    for window, u, v in _taps(padded, weight, stride, dilation):
        tap = _convolution(padded[window], weight[:, :, u : u + 1, v : v + 1], None, stride, *_ONE_TAP, groups)
        scale = s[:, u, v, None, None, None]
        output = tap.mul_(scale) if output is None else output.addcmul_(tap, scale)
    assert output is not None
    return output


def _conv_backward_by_tap(
    grad_output: Tensor, input: Tensor, weight: Tensor, s: Tensor, geometry: Geometry, mask: Sequence[bool]
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    stride, padding, dilation, *_, groups = geometry
    padded = _pad(input, padding)
    grad_padded = torch.zeros_like(padded) if mask[0] else None
    grad_weight = torch.empty_like(weight) if mask[1] else None
    grad_s = torch.empty_like(s) if mask[2] else None
    for window, u, v in _taps(padded, weight, stride, dilation):
        kernel = weight[:, :, u : u + 1, v : v + 1]
        if grad_s is not None:
            tap = _convolution(padded[window], kernel, None, stride, *_ONE_TAP, groups)
            grad_s[:, u, v] = tap.mul_(grad_output).sum((1, 2, 3))
        if mask[0] or mask[1]:
            grad_tap = grad_output * s[:, u, v, None, None, None]
            grad_window, grad_kernel, _ = _convolution_backward(
                grad_tap, padded[window], kernel, None, stride, *_ONE_TAP, groups, (mask[0], mask[1], False)
            )
            if grad_padded is not None:
                grad_padded[window] += grad_window
            if grad_weight is not None:
                grad_weight[:, :, u : u + 1, v : v + 1] = grad_kernel
    grad_input = None if grad_padded is None else _pad(grad_padded, [-p for p in padding])
    return grad_input, grad_weight, grad_s


def _pad(input: Tensor, padding: Sequence[int]) -> Tensor:
    return F.pad(input, (padding[1], padding[1], padding[0], padding[0])) if any(padding) else input


def _taps(
    padded: Tensor, weight: Tensor, stride: Sequence[int], dilation: Sequence[int]
) -> Iterator[tuple[tuple[Any, ...], int, int]]:
    """For each tap of the kernel the window of the padded input that it sees."""
    kernel = weight.shape[2:]
    # What the tap at 0 sees; the others see as much, further on.
    height, width = (size - d * (k - 1) for size, d, k in zip(padded.shape[2:], dilation, kernel, strict=True))
    for u in range(kernel[0]):
        for v in range(kernel[1]):
            top, left = u * dilation[0], v * dilation[1]
            yield (..., slice(top, top + height), slice(left, left + width)), u, v
