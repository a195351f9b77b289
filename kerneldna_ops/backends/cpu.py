"""The fused C++ kernels for the CPU, in csrc/cpu."""

import torch
from torch import Tensor

from ..call import BackwardCall, Call

_native_conv = torch.ops.kerneldna._native_conv.default
_native_conv_backward = torch.ops.kerneldna._native_conv_backward.default
squeeze_excite = torch.ops.kerneldna._native_squeeze_excite.default


def can_run(call: Call) -> tuple[bool, str]:
    return runs_on(call.input)


def runs_on(input: Tensor) -> tuple[bool, str]:
    """Whether the kernels run on tensors of this device; if not, why."""
    if not torch._C._dispatch_has_kernel_for_dispatch_key("kerneldna::_native_conv", "CPU"):
        return False, "the C++ library has no CPU kernel"
    if input.device.type != "cpu":
        return False, f"input is on {input.device}, not on the CPU"
    return True, "fused C++ kernel for the CPU"


def conv(call: Call) -> Tensor:
    output: Tensor = _native_conv(*call)
    return output


def conv_backward(backward: BackwardCall) -> tuple[Tensor | None, ...]:
    grads: tuple[Tensor | None, ...] = _native_conv_backward(*backward.arguments)
    return grads
