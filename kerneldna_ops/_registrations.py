"""What makes the ops compose: the way into the backends of Python, fake kernels, autograd, autocast, vmap."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from . import backends
from ._checks import check_conv, check_grad_output
from .backends import call, chosen_backend, use_backend

_conv = torch.ops.kerneldna.conv.default
_conv_backward = torch.ops.kerneldna.conv_backward.default
_lib = torch.library.Library("kerneldna", "FRAGMENT")

Ints = Sequence[int]
Gradients = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]


def output_memory_format(input: Tensor) -> torch.memory_format:
    """The layout that the output of conv takes from its input, and each gradient from its tensor."""
    if input.dim() == 4 and input.is_contiguous(memory_format=torch.channels_last) and not input.is_contiguous():
        return torch.channels_last
    return torch.contiguous_format


# --- the backends of Python ---------------------------------------------------------------------------------------


def selected_conv(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    channel_attention: Tensor | None = None,
    filter_attention: Tensor | None = None,
    spatial_attention: Tensor | None = None,
    stride: Ints = (1, 1),
    padding: Ints = (0, 0),
    dilation: Ints = (1, 1),
    groups: int = 1,
) -> Tensor:
    """_selected_conv; the defaults stand here again because the dispatcher drops trailing arguments that equal them."""
    output = backends.conv(
        input, weight, bias, channel_attention, filter_attention, spatial_attention, stride, padding, dilation, groups
    )
    return output.contiguous(memory_format=output_memory_format(input))


def selected_conv_backward(grad_output: Tensor, *args: Any) -> Gradients:
    grads = backends.conv_backward(grad_output, *args)
    output_mask = args[-1]
    return tuple(  # type: ignore[return-value]
        grad.contiguous(memory_format=output_memory_format(tensor)) if wanted else grad_output.new_empty(0)
        for grad, tensor, wanted in zip(grads, args[:6], output_mask, strict=True)
    )


def conv_without_native_kernel(*args: Any) -> Tensor:
    """conv on a device for which the C++ library has no kernel."""
    fake_conv(*args)
    return selected_conv(*args)


def conv_backward_without_native_kernel(*args: Any) -> Gradients:
    fake_conv_backward(*args)
    return selected_conv_backward(*args)


# --- fake ---------------------------------------------------------------------------------------------------------


def fake_conv(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    channel_attention: Tensor | None = None,
    filter_attention: Tensor | None = None,
    spatial_attention: Tensor | None = None,
    stride: Ints = (1, 1),
    padding: Ints = (0, 0),
    dilation: Ints = (1, 1),
    groups: int = 1,
) -> Tensor:
    args = (
        input, weight, bias, channel_attention, filter_attention, spatial_attention, stride, padding, dilation, groups
    )  # fmt: skip
    try:
        shape = check_conv("kerneldna::conv", *args)
    except (TypeError, ValueError) as error:
        raise RuntimeError(*error.args) from None
    return input.new_empty(shape).to(memory_format=output_memory_format(input))


def fake_conv_backward(grad_output: Tensor, *args: Any) -> Gradients:
    *conv_args, output_mask = args
    try:
        shape = check_conv("kerneldna::conv_backward", *conv_args)
        check_grad_output("kerneldna::conv_backward", grad_output, conv_args[0], shape)
    except (TypeError, ValueError) as error:
        raise RuntimeError(*error.args) from None
    return tuple(  # type: ignore[return-value]
        torch.empty_like(tensor, memory_format=output_memory_format(tensor)) if wanted else grad_output.new_empty(0)
        for tensor, wanted in zip(args[:6], output_mask, strict=True)
    )


# --- autograd -----------------------------------------------------------------------------------------------------


def save_for_backward(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:6])
    ctx.geometry = inputs[6:]
    ctx.backend = chosen_backend()


def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
    wanted = ctx.needs_input_grad[:6]
    args = (grad_output, *ctx.saved_tensors, *ctx.geometry, wanted)
    if ctx.backend is None:
        grads = call(_conv_backward, *args)
    else:
        with use_backend(ctx.backend):
            grads = call(_conv_backward, *args)
    return (*(grad if is_wanted else None for grad, is_wanted in zip(grads, wanted, strict=True)), *[None] * 4)


_lib.impl("_selected_conv", selected_conv, "CompositeExplicitAutograd")
_lib.impl("_selected_conv_backward", selected_conv_backward, "CompositeExplicitAutograd")
_lib.impl("conv", conv_without_native_kernel, "CompositeExplicitAutograd")
_lib.impl("conv_backward", conv_backward_without_native_kernel, "CompositeExplicitAutograd")
torch.library.register_fake("kerneldna::conv", fake_conv, lib=_lib)
torch.library.register_fake("kerneldna::conv_backward", fake_conv_backward, lib=_lib)
torch.library.register_autograd("kerneldna::conv", backward, setup_context=save_for_backward, lib=_lib)
