"""The second truth: the formula of the operation and its adjoints as nested loops over Python floats, and nothing else.

    y[n,o,p,q] = f[n,o] * sum_uv s[n,u,v] * sum_i W[n,o,i,u,v] * c[n,k] * x[n,k,h,w] + bias[n,o]
    with h = p*stride + u*dilation - padding, w likewise, and k the i-th input channel of the group of filter o.
    W[n] is the weight, that of the sample, or sum_m a[n,m] * weight[m]

It shares no code and no idea with kerneldna_ops/reference.py, so that a mistake in one of them shows in the other. It
is slow (microseconds for each product of the sum) and meant to be obviously right. conv and conv_backward take the
arguments of the ops, compute in float64 and return float64.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

Pair = tuple[int, int]


def out_size(size: int, kernel: int, stride: int, padding: int, dilation: int) -> int:
    return (size + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1


def out_shape(input: Tensor, weight: Tensor, stride: Pair, padding: Pair, dilation: Pair) -> tuple[int, int, int, int]:
    height, width = (
        out_size(input.size(2 + axis), weight.size(axis - 2), stride[axis], padding[axis], dilation[axis])
        for axis in (0, 1)
    )
    return input.size(0), weight.size(-4), height, width


def products(
    input: Tensor, weight: Tensor, stride: Pair, padding: Pair, dilation: Pair, groups: int
) -> Iterator[tuple[int, ...]]:
    """The indices (n, o, p, q, i, u, v, k, h, w) of every product in the sum; a tap on the padding makes none."""
    batch, filters, out_height, out_width = out_shape(input, weight, stride, padding, dilation)
    group_channels, kernel_height, kernel_width = weight.shape[-3:]
    for n in range(batch):
        for o in range(filters):
            group = o // (filters // groups)
            for p in range(out_height):
                for q in range(out_width):
                    for i in range(group_channels):
                        for u in range(kernel_height):
                            for v in range(kernel_width):
                                h = p * stride[0] + u * dilation[0] - padding[0]
                                w = q * stride[1] + v * dilation[1] - padding[1]
                                if 0 <= h < input.size(2) and 0 <= w < input.size(3):
                                    yield n, o, p, q, i, u, v, group * group_channels + i, h, w


def per_sample(attention: Tensor | None, *shape: int) -> Any:
    """Nested lists of the per-sample shape: a static attention repeated for each sample, an absent one all ones."""
    return (torch.ones(()) if attention is None else attention).double().expand(shape).tolist()


def kernels_of(weight: Tensor, kernel_attention: Tensor | None, batch: int) -> list[list[tuple[int, float]]]:
    """Of each sample the weights that make up its kernel, by their index, each with its share."""
    if kernel_attention is not None:
        return [list(enumerate(shares)) for shares in kernel_attention.double().tolist()]
    return [[(n if weight.dim() == 5 else 0, 1.0)] for n in range(batch)]


def zeros(*shape: int) -> Any:
    return torch.zeros(shape).tolist()


def tensor(values: Any, *shape: int) -> Tensor:
    """reshape, because nested lists forget the sizes behind an empty batch."""
    return torch.tensor(values, dtype=torch.float64).reshape(shape)


def conv(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    channel_attention: Tensor | None,
    filter_attention: Tensor | None,
    spatial_attention: Tensor | None,
    stride: Pair,
    padding: Pair,
    dilation: Pair,
    groups: int,
    kernel_attention: Tensor | None = None,
) -> Tensor:
    shape = out_shape(input, weight, stride, padding, dilation)
    batch, filters, out_height, out_width = shape
    x, weights = input.double().tolist(), weight.double().reshape(-1, *weight.shape[-4:]).tolist()
    kernels = kernels_of(weight, kernel_attention, batch)
    c = per_sample(channel_attention, batch, input.size(1))
    f = per_sample(filter_attention, batch, filters)
    s = per_sample(spatial_attention, batch, *weight.shape[-2:])
    b = zeros(batch, filters) if bias is None else per_sample(bias, batch, filters)

    y = zeros(*shape)
    for n, o, p, q, i, u, v, k, h, w in products(input, weight, stride, padding, dilation, groups):
        for m, share in kernels[n]:
            y[n][o][p][q] += s[n][u][v] * share * weights[m][o][i][u][v] * c[n][k] * x[n][k][h][w]
    for n in range(batch):
        for o in range(filters):
            for p in range(out_height):
                for q in range(out_width):
                    y[n][o][p][q] = f[n][o] * y[n][o][p][q] + b[n][o]
    return tensor(y, *shape)


def conv_backward(
    grad_output: Tensor,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    channel_attention: Tensor | None,
    filter_attention: Tensor | None,
    spatial_attention: Tensor | None,
    stride: Pair,
    padding: Pair,
    dilation: Pair,
    groups: int,
    kernel_attention: Tensor | None = None,
) -> tuple[Tensor | None, ...]:
    """The gradients of (input, weight, bias, c, f, s, a): of each product a factor gets what the others make."""
    shape = out_shape(input, weight, stride, padding, dilation)
    batch, filters, out_height, out_width = shape
    grad, x = grad_output.double().tolist(), input.double().tolist()
    weights = weight.double().reshape(-1, *weight.shape[-4:]).tolist()
    kernels = kernels_of(weight, kernel_attention, batch)
    c = per_sample(channel_attention, batch, input.size(1))
    f = per_sample(filter_attention, batch, filters)
    s = per_sample(spatial_attention, batch, *weight.shape[-2:])

    grad_x, grad_weights = zeros(*input.shape), zeros(len(weights), *weight.shape[-4:])
    grad_bias, grad_a = zeros(batch, filters), zeros(batch, max(len(weights), 1))
    grad_c = zeros(batch, input.size(1))
    grad_f = zeros(batch, filters)
    grad_s = zeros(batch, *weight.shape[-2:])
    for n, o, p, q, i, u, v, k, h, w in products(input, weight, stride, padding, dilation, groups):
        g = grad[n][o][p][q]
        factor_f, factor_s, factor_c, factor_x = f[n][o], s[n][u][v], c[n][k], x[n][k][h][w]
        for m, share in kernels[n]:
            factor_w = weights[m][o][i][u][v]
            grad_x[n][k][h][w] += g * factor_f * factor_s * share * factor_w * factor_c
            grad_weights[m][o][i][u][v] += g * factor_f * factor_s * share * factor_c * factor_x
            grad_c[n][k] += g * factor_f * factor_s * share * factor_w * factor_x
            grad_f[n][o] += g * factor_s * share * factor_w * factor_c * factor_x
            grad_s[n][u][v] += g * factor_f * share * factor_w * factor_c * factor_x
            grad_a[n][m] += g * factor_f * factor_s * factor_w * factor_c * factor_x
    for n in range(batch):
        for o in range(filters):
            for p in range(out_height):
                for q in range(out_width):
                    grad_bias[n][o] += grad[n][o][p][q]

    def of(attention: Tensor | None, gradient: Any, *shape: int) -> Tensor | None:
        """A static attention stands in every sample, so its gradient is their sum."""
        if attention is None:
            return None
        gradient = tensor(gradient, *shape)
        return gradient if attention.dim() == len(shape) else gradient.sum(0)

    return (
        tensor(grad_x, *input.shape),
        tensor(grad_weights, *weight.shape),
        of(bias, grad_bias, batch, filters),
        of(channel_attention, grad_c, batch, input.size(1)),
        of(filter_attention, grad_f, batch, filters),
        of(spatial_attention, grad_s, batch, *weight.shape[-2:]),
        of(kernel_attention, grad_a, batch, max(len(weights), 1)),
    )
