"""What makes conv and conv_backward compose: fake kernels, autograd, autocast, vmap, the way into backends in Python.

All of it is registered on import. The schemas and the native kernels are the C++ library's (csrc/ops.cpp).
"""

from collections.abc import Callable
from typing import Any, TypeAlias

import torch
from torch import Tensor

from .. import backends
from ..call import BackwardCall, Call
from ..checks import check_conv, check_conv_backward
from ..library import LIBRARY, NESTED, register_kernel
from . import autocast, autograd, vmap

_conv = torch.ops.kerneldna.conv.default
_conv_backward = torch.ops.kerneldna.conv_backward.default

Gradients: TypeAlias = tuple[Tensor, ...]


def checked(check: Callable[..., None], op: str, *args: Any) -> None:
    """What does not fit is a RuntimeError, as from the C++ library."""
    try:
        check(op, *args)
    except (TypeError, ValueError) as error:
        raise RuntimeError(*error.args) from None


def fake_conv(*args: Any) -> Tensor:
    call = Call(*args)
    checked(check_conv, "kerneldna::conv", call)
    return torch.empty_like(call.input.new_empty(call.output_shape), memory_format=call.memory_format)


def fake_conv_backward(*args: Any) -> Gradients:
    backward = BackwardCall.of(*args)
    checked(check_conv_backward, "kerneldna::conv_backward", backward)
    return tuple(
        backward.grad_output.new_empty(0)
        if tensor is None or memory_format is None
        else torch.empty_like(tensor, memory_format=memory_format)
        for tensor, memory_format in zip(backward.forward.tensors, backward.memory_formats, strict=True)
    )


def selected_conv(*args: Any) -> Tensor:
    return backends.conv(Call(*args))


def selected_conv_backward(grad_output: Tensor, *args: Any) -> Gradients:
    """A gradient that output_mask leaves out is a tensor of shape [0]: the schema has no room for None."""
    grads = backends.conv_backward(BackwardCall.of(grad_output, *args))
    return tuple(grad_output.new_empty(0) if grad is None else grad for grad in grads)


# Where the C++ library has no kernel for a device, nobody has checked the arguments yet.


def conv_on_any_device(*args: Any) -> Tensor:
    checked(check_conv, "kerneldna::conv", Call(*args))
    return selected_conv(*args)


def conv_backward_on_any_device(*args: Any) -> Gradients:
    checked(check_conv_backward, "kerneldna::conv_backward", BackwardCall.of(*args))
    return selected_conv_backward(*args)


for _key in ("CompositeExplicitAutograd", *NESTED):
    register_kernel("conv", _key, conv_on_any_device)
    register_kernel("conv_backward", _key, conv_backward_on_any_device)
register_kernel("_selected_conv", "CompositeExplicitAutograd", selected_conv)
register_kernel("_selected_conv_backward", "CompositeExplicitAutograd", selected_conv_backward)

torch.library.register_fake("kerneldna::conv", fake_conv, lib=LIBRARY)
torch.library.register_fake("kerneldna::conv_backward", fake_conv_backward, lib=LIBRARY)

for _op, _kernel in ((_conv, autograd.conv), (_conv_backward, autograd.conv_backward)):
    register_kernel(_op, "Autograd", _kernel, with_keyset=True)

torch.library.register_vmap("kerneldna::conv", vmap.conv, lib=LIBRARY)
torch.library.register_vmap("kerneldna::conv_backward", vmap.conv_backward, lib=LIBRARY)

for _device_type, _key in (("cpu", "AutocastCPU"), ("cuda", "AutocastCUDA")):
    register_kernel("conv", _key, autocast.kernel(_conv, _device_type))
