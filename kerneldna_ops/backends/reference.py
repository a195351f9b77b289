"""The reference behind the op: one kernel per sample, materialised. Only for comparison with the other backends."""

import torch
from torch import Tensor

from ..call import BackwardCall, Call
from ..reference import conv2d_reference, kernel_factors, kernels_of_samples
from . import composite

can_run = runs_on = composite.can_run
squeeze_excite = composite.squeeze_excite


def conv(call: Call) -> Tensor:
    return conv2d_reference(*call)


def conv_backward(backward: BackwardCall) -> tuple[Tensor | None, ...]:
    """A kernel is a product of factors, so the gradient of each is the kernels' gradient times the other factors."""
    grad_output, call, output_mask = backward
    input, weight, _, c, f, s, stride, padding, dilation, groups, a = call
    samples, _, height, width = input.shape
    shape = (samples, *call.kernel_shape)
    kernels = kernels_of_samples(weight, a)
    factors = (kernels, *kernel_factors(weight.shape, c, f, s, groups))

    def product(left_out: int | None) -> Tensor:
        result = weight.new_ones(shape)
        for i, factor in enumerate(factors):
            if factor is not None and i != left_out:
                result = result * factor
        return result

    def like(argument: str, per_sample: Tensor) -> Tensor:
        return per_sample.sum(0) if call.kind(argument) == "static" else per_sample

    if samples == 0:
        grad_input, grad_kernels = torch.zeros_like(input), weight.new_zeros(shape)
    else:
        grad_input, grad_kernels, _ = torch.ops.aten.convolution_backward(
            grad_output.reshape(1, -1, *grad_output.shape[2:]),
            input.reshape(1, -1, height, width),
            product(None).flatten(0, 1),
            None, stride, padding, dilation, False, (0, 0), samples * groups, (True, True, False),
        )  # fmt: skip
        grad_input = grad_input.view(input.shape)
        grad_kernels = grad_kernels.view(shape)

    grads: list[Tensor | None] = [None] * len(output_mask)
    if output_mask[0]:
        grads[0] = grad_input
    if output_mask[1] or output_mask[6]:
        of_kernels = grad_kernels * product(0)
    if output_mask[1] and a is not None:
        grads[1] = (a[:, :, None, None, None, None] * of_kernels[:, None]).sum(0)
    elif output_mask[1]:
        grads[1] = of_kernels if call.kernels == "per_sample" else of_kernels.sum(0)
    if output_mask[2]:
        grads[2] = like("bias", grad_output.sum((2, 3)))
    if output_mask[3]:
        by_group = (grad_kernels * product(1)).sum((3, 4)).unflatten(1, (groups, -1))
        grads[3] = like("channel_attention", by_group.sum(2).flatten(1))
    if output_mask[4]:
        grads[4] = like("filter_attention", (grad_kernels * product(2)).sum((2, 3, 4)))
    if output_mask[5]:
        grads[5] = like("spatial_attention", (grad_kernels * product(3)).sum((1, 2)))
    if output_mask[6]:
        grads[6] = (of_kernels[:, None] * weight).sum((2, 3, 4, 5))
    return tuple(grads)
