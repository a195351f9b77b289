"""The operation in plain PyTorch: slow, and right at a glance. Every backend is tested against it."""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor


def conv2d_reference(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    channel_attention: Tensor | None = None,
    filter_attention: Tensor | None = None,
    spatial_attention: Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
    kernel_attention: Tensor | None = None,
) -> Tensor:
    """Convolve each sample with its own kernel, weight * f * c * s, as one convolution of N * groups groups.

    With a weight of five dimensions the kernel of a sample is weight[n], or sum_k kernel_attention[n,k] * weight[k].

    Shapes as in `kerneldna_ops.functional.conv2d`. The kernels take N times the memory of the weight.
    """
    samples, _, height, width = input.shape
    kernels = kernels_of_samples(weight, kernel_attention)
    for factor in kernel_factors(weight.shape, channel_attention, filter_attention, spatial_attention, groups):
        if factor is not None:
            kernels = kernels * factor
    kernels = kernels.expand(samples, *weight.shape[-4:])
    if samples == 0:
        # A convolution of 0 groups is refused. The sum over no kernel is 0 and ties everything to the output.
        output = F.conv2d(input, weight.new_zeros(weight.shape[-4:]), None, stride, padding, dilation, groups)
        return output + kernels.sum() if bias is None else output + kernels.sum() + bias[..., None, None]
    # A view of one channels_last sample would do, but torch's own gradient of a channels_last weight in groups is wrong
    # for it, in float64 at least.
    together = input.contiguous().reshape(1, -1, height, width)
    output = F.conv2d(together, kernels.flatten(0, 1), None, stride, padding, dilation, samples * groups)
    output = output.reshape(samples, -1, *output.shape[2:])
    return output if bias is None else output + bias[..., None, None]


def kernels_of_samples(weight: Tensor, kernel_attention: Tensor | None) -> Tensor:
    """[N, C_out, C_in/groups, kh, kw], or [C_out, C_in/groups, kh, kw] where all samples have one."""
    if kernel_attention is None:
        return weight
    return (kernel_attention[:, :, None, None, None, None] * weight).sum(1)


def kernel_factors(
    weight_shape: Sequence[int],
    channel_attention: Tensor | None,
    filter_attention: Tensor | None,
    spatial_attention: Tensor | None,
    groups: int,
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """c, f and s (None where absent), each broadcastable to kernels [N, C_out, C_in/groups, kh, kw]."""
    out_channels, in_channels, height, width = weight_shape[-4:]
    c, f, s = channel_attention, filter_attention, spatial_attention
    if c is not None:
        per_group = c.reshape(-1, groups, 1, in_channels).expand(-1, -1, out_channels // groups, -1)
        c = per_group.reshape(-1, out_channels, in_channels, 1, 1)
    if f is not None:
        f = f.reshape(-1, out_channels, 1, 1, 1)
    if s is not None:
        s = s.reshape(-1, 1, 1, height, width)
    return c, f, s
