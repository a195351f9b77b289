"""A mixture of K kernels as one convolution with one weight: K times the channels, each copy scaled by its share.

    weight'[o, (k, i)] = weight[k, o, i],  input'[n, (k, i)] = input[n, i],  c'[n, (k, i)] = a[n, k] * c[n, i]

with k inside each group. It multiplies K times as much, and makes no kernel for any sample.
"""

from torch import Tensor

from ..call import BackwardCall, Call

# By arithmetic for an H200 in bfloat16, not verified on a GPU: a kernel for each sample is written and read once, which
# costs as much as multiplying so many pixels.
_PIXELS_PER_KERNEL = 412


def pays(call: Call) -> bool:
    """Whether it is faster than one kernel after the other: on a GPU, where maps are small."""
    kernels = call.weight.shape[0]
    height, width = call.output_shape[2:]
    fits = call.kernels == "mixed" and call.input.is_cuda
    return fits and height * width * (kernels - 1) < _PIXELS_PER_KERNEL


def folded(call: Call) -> Call:
    a, weight, groups = call.kernel_attention, call.weight, call.groups
    assert a is not None
    kernels, filters, channels, *taps = weight.shape
    input = call.input.unflatten(1, (groups, 1, channels)).expand(-1, -1, kernels, -1, -1, -1).flatten(1, 3)
    weight = weight.permute(1, 0, 2, 3, 4).reshape(filters, kernels * channels, *taps)
    c = a[:, None, :, None]
    if call.channel_attention is not None:
        c = c * call.channel_attention.unflatten(-1, (groups, 1, channels))
    c = c.expand(-1, groups, -1, channels).flatten(1)
    return call._replace(input=input, weight=weight, channel_attention=c, kernel_attention=None)


def folded_backward(backward: BackwardCall) -> BackwardCall:
    for_input, for_weight, for_bias, for_c, for_f, for_s, for_a = backward.output_mask
    mask = (for_input, for_weight, for_bias, for_c or for_a, for_f, for_s, False)
    return BackwardCall(backward.grad_output, folded(backward.forward), mask)


def unfolded(backward: BackwardCall, grads: tuple[Tensor | None, ...]) -> tuple[Tensor | None, ...]:
    """The gradients of the mixture, of those of the folded call."""
    _, call, mask = backward
    grad_input, grad_weight, grad_bias, grad_c, grad_f, grad_s, _ = grads
    a, c, (kernels, filters, channels, *taps) = call.kernel_attention, call.channel_attention, call.weight.shape
    assert a is not None
    grad_a = grad_channel = None
    if grad_input is not None:
        grad_input = grad_input.unflatten(1, (call.groups, kernels, channels)).sum(2).flatten(1, 2)
    if grad_weight is not None:
        grad_weight = grad_weight.view(filters, kernels, channels, *taps).transpose(0, 1)
    if grad_c is not None:
        by_kernel = grad_c.unflatten(1, (call.groups, kernels, channels))
        if mask[6]:
            of_c = by_kernel if c is None else by_kernel * c.unflatten(-1, (call.groups, 1, channels))
            grad_a = of_c.sum((1, 3))
        if mask[3]:
            grad_channel = (by_kernel * a[:, None, :, None]).sum(2).flatten(1)
            if call.kind("channel_attention") == "static":
                grad_channel = grad_channel.sum(0)
    return grad_input, grad_weight, grad_bias, grad_channel, grad_f, grad_s, grad_a
