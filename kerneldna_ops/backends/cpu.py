"""The fused C++ kernels for the CPU, in csrc/cpu."""

import torch
from torch import Tensor


def can_run(input: Tensor, *args: object) -> tuple[bool, str]:
    return runs_on(input)


def runs_on(input: Tensor) -> tuple[bool, str]:
    """Whether the kernels run on tensors of this device; if not, why."""
    if not torch._C._dispatch_has_kernel_for_dispatch_key("kerneldna::_native_conv", "CPU"):
        return False, "the C++ library has no CPU kernel"
    if input.device.type != "cpu":
        return False, f"input is on {input.device}, not on the CPU"
    return True, "fused C++ kernel for the CPU"


conv = torch.ops.kerneldna._native_conv
conv_backward = torch.ops.kerneldna._native_conv_backward
squeeze_excite = torch.ops.kerneldna._native_squeeze_excite
