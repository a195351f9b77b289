"""composite where each sample has a kernel of its own, given or mixed: one sample after the other, with a kernel that
lives no longer than that. Mixtures on small maps of a GPU take the other way, K times the channels (_kernel_fold.py).
"""

from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import torch
from torch import Tensor

from ..call import BackwardCall, Call, memory_format_of

Geometry: TypeAlias = tuple[Any, ...]  # the arguments of aten::convolution after bias

_convolution: Callable[..., Tensor] = torch.ops.aten.convolution
_convolution_backward = torch.ops.aten.convolution_backward


def conv(call: Call) -> Tensor:
    """With at least one sample, which the others of these functions need as well."""
    s, f = _rows(call, "spatial_attention"), call.filter_attention
    plain = _kernels(call)
    kernels = (plain(n) if s is None else plain(n) * s[n] for n in range(len(call.input)))
    output = conv_of_each(_scaled(call), kernels, _geometry(call))
    if f is not None:
        output.mul_(f[..., None, None])
    return output if call.bias is None else output.add_(call.bias[..., None, None])


def conv_of_each(input: Tensor, kernels: Iterator[Tensor], geometry: Geometry) -> Tensor:
    samples = (_convolution(input[n : n + 1], kernel, None, *geometry) for n, kernel in enumerate(kernels))
    first = next(samples)
    output = torch.empty_like(first.new_empty(len(input), *first.shape[1:]), memory_format=memory_format_of(input))
    output[0] = first[0]
    for n, sample in enumerate(samples, 1):
        output[n] = sample[0]
    return output


def conv_backward(backward: BackwardCall) -> tuple[Tensor | None, ...]:
    grad_output, call, output_mask = backward
    for_input, for_weight, _, for_c, for_f, for_s, for_a = output_mask
    scaled, weight, a, geometry = _scaled(call), call.weight, call.kernel_attention, _geometry(call)
    c, f, s = (_rows(call, name) for name in ("channel_attention", "filter_attention", "spatial_attention"))
    plain, parents = _kernels(call), weight.flatten(1)
    sums = torch.float64 if weight.dtype == torch.float64 else torch.float32
    grad_input = torch.empty_like(call.input) if for_input else None
    grad_weight = torch.zeros(weight.shape, dtype=weight.dtype if a is None else sums, device=weight.device)
    grad_c, grad_f, grad_s, grad_a = (
        None if rows is None else torch.empty(rows.shape, dtype=sums, device=rows.device) for rows in (c, f, s, a)
    )
    for_scaled = for_input or for_c
    for n in range(len(call.input)):
        x, kernel, grad = scaled[n : n + 1], plain(n), grad_output[n : n + 1]
        modulated = kernel if s is None else kernel * s[n]
        if for_f:
            assert grad_f is not None
            grad_f[n] = (grad * _convolution(x, modulated, None, *geometry)).sum((0, 2, 3), dtype=sums)
        if f is not None:
            grad = grad * f[n, :, None, None]
        mask = (for_scaled, for_weight or for_s or for_a, False)
        grad_x, grad_kernel, _ = _convolution_backward(grad, x, modulated, None, *geometry, mask)
        if for_c:
            assert grad_c is not None
            grad_c[n] = (grad_x[0] * call.input[n]).sum((1, 2), dtype=sums)
        if grad_input is not None:
            grad_input[n] = grad_x[0] if c is None else grad_x[0] * c[n, :, None, None]
        if for_s:
            assert grad_s is not None
            grad_s[n] = (grad_kernel * kernel).sum((0, 1), dtype=sums)
        if s is not None and mask[1]:
            grad_kernel = grad_kernel * s[n]
        if for_a:
            assert grad_a is not None
            grad_a[n] = parents @ grad_kernel.flatten()
        if for_weight and a is None:
            grad_weight[n] = grad_kernel
        elif for_weight:
            assert a is not None
            grad_weight.flatten(1).addr_(a[n].to(sums), grad_kernel.flatten().to(sums))

    def like(name: str, rows: Tensor | None) -> Tensor | None:
        if rows is None:
            return None
        return (rows.sum(0) if call.kind(name) == "static" else rows).to(weight.dtype)

    grads = (
        grad_input,
        grad_weight.to(weight.dtype),
        like("bias", grad_output.sum((2, 3), dtype=sums)),
        like("channel_attention", grad_c),
        like("filter_attention", grad_f),
        like("spatial_attention", grad_s),
        None if grad_a is None else grad_a.to(weight.dtype),
    )
    return tuple(grad if wanted else None for grad, wanted in zip(grads, output_mask, strict=True))


def _kernels(call: Call) -> Callable[[int], Tensor]:
    """The kernel of a sample, without spatial attention."""
    weight, a, shape = call.weight, call.kernel_attention, call.kernel_shape
    if a is None:
        return lambda n: weight[n]
    parents = weight.flatten(1)
    return lambda n: (a[n] @ parents).view(shape)


def _rows(call: Call, name: str) -> Tensor | None:
    """An attention, for each sample."""
    static, per_sample = call.by_kind(name)
    return per_sample if static is None else static.expand(len(call.input), *static.shape)


def _scaled(call: Call) -> Tensor:
    c = call.channel_attention
    return call.input if c is None else call.input * c[..., None, None]


def _geometry(call: Call) -> Geometry:
    return (call.stride, call.padding, call.dilation, False, (0, 0), call.groups)
