"""Convolution with one spatial attention per sample, out of PyTorch's own operators, in one of two exact ways.

* By tap: the convolution is the sum of kh * kw convolutions with a 1x1 kernel, each scaled as it is added.
* By sample: one convolution per sample, with a kernel scaled for it that lives no longer than that.

The first touches the output once more per tap, the second the weight once more per sample.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from .._arguments import output_memory_format

Geometry: TypeAlias = tuple[Any, ...]  # the arguments of aten::convolution after bias

_convolution: Callable[..., Tensor] = torch.ops.aten.convolution
_convolution_backward = torch.ops.aten.convolution_backward
_ONE_TAP = ((0, 0), (1, 1), False, (0, 0))  # padding, dilation, transposed, output_padding


def by_tap(input: Tensor, weight: Tensor, geometry: Geometry) -> bool:
    """Whether the taps are the faster way: many channels on few pixels, where scaling the weight costs most.

    The limit is where the two cross on a CPU, 64 channels at 56x56 to 512 at 7x7. A low precision never goes by tap,
    because it would also be the precision of the sum.
    """
    stride = geometry[0]
    pixels = input.shape[2] * input.shape[3] // (stride[0] * stride[1])
    precise = weight.dtype in (torch.float32, torch.float64)
    return precise and len(input) > 1 and 4 * pixels < weight.shape[1]


def conv(input: Tensor, weight: Tensor, s: Tensor, geometry: Geometry) -> Tensor:
    if not len(input):
        return _convolution(input, weight, None, *geometry)
    if by_tap(input, weight, geometry):
        return _conv_by_tap(input, weight, s, geometry)
    samples = (_convolution(input[n : n + 1], weight * s_n, None, *geometry) for n, s_n in enumerate(s))
    first = next(samples)
    output = torch.empty_like(first.new_empty(len(input), *first.shape[1:]), memory_format=output_memory_format(input))
    output[0] = first[0]
    for n, sample in enumerate(samples, 1):
        output[n] = sample[0]
    return output


def conv_backward(
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
    padded = pad(input, padding)
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
    padded = pad(input, padding)
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
    grad_input = None if grad_padded is None else pad(grad_padded, [-p for p in padding])
    return grad_input, grad_weight, grad_s


def pad(input: Tensor, padding: Sequence[int]) -> Tensor:
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
