"""The fused CUDA kernels of csrc/cuda, for GPUs. tests/cuda/host_execution runs the same kernels on the CPU, for tests.

Gradients they make of depthwise convolutions alone; of others composite does. They work on channels_last tensors
without a copy; an NCHW tensor is brought into that layout first.
"""

import functools
import logging
from typing import Any

import torch
from torch import Tensor

from ..call import AnyCall, BackwardCall, Call
from . import composite

_native_conv = torch.ops.kerneldna._native_conv.default
_native_conv_backward = torch.ops.kerneldna._native_conv_backward.default
_cuda_refusal = torch.ops.kerneldna._cuda_refusal.default
_cuda_conv_refusal = torch.ops.kerneldna._cuda_conv_refusal.default
squeeze_excite = torch.ops.kerneldna._native_squeeze_excite.default

_log = logging.getLogger("kerneldna_ops")

OLDEST_GPU = (8, 0)  # that any kernel of this project takes, Triton's too
_DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def can_run(call: Call) -> tuple[bool, str]:
    runs, reason = runs_on(call.input)
    if runs and (against := call_refusal(call)):
        return False, against
    return runs, reason


def runs_on(input: Tensor) -> tuple[bool, str]:
    """Whether the CUDA kernels run on tensors of this device and dtype; if not, why."""
    if not torch._C._dispatch_has_kernel_for_dispatch_key("kerneldna::_native_conv", "CUDA"):
        return False, "the C++ library was built without CUDA"
    if torch.version.cuda is None:
        return False, f"torch {torch.__version__} was built without CUDA"
    if input.device.type != "cuda":
        return False, f"input is on {input.device}, not on a CUDA device"
    if reason := without_kernel(input):
        return False, reason
    refusal = _refusal(input.device.index)
    return not refusal, refusal or "fused CUDA kernels"


@functools.cache
def _refusal(device: int) -> str:
    """What the library's kernels have against a device, its driver or this torch, or nothing."""
    refusal: str = _cuda_refusal(device)
    if refusal and not too_old(torch.device("cuda", device)):
        _log.warning("cuda does not run on cuda:%d: %s", device, refusal)
    return refusal


def without_kernel(input: Tensor) -> str:
    return "" if input.dtype in _DTYPES else f"it has no kernel for {str(input.dtype).removeprefix('torch.')}"


def too_old(device: torch.device) -> str:
    """The reason against a CUDA device, or nothing."""
    capability = torch.cuda.get_device_capability(device)
    if capability >= OLDEST_GPU:
        return ""
    return "the GPU has compute capability {}.{}, {}.{} is needed".format(*capability, *OLDEST_GPU)


def call_refusal(call: Call) -> str:
    """Why the kernels do not take a call, or nothing: csrc/cuda/conv_refusal.h says it to C++, too."""
    if call.kernels != "shared" or call.kind("bias") == "per_sample":
        return "its kernels read one weight and one bias for all samples"
    input, weight, *_ = call
    reason: str = _cuda_conv_refusal(input.shape, weight.shape, *call.geometry, input.dtype.itemsize)
    return reason


def conv(call: Call) -> Tensor:
    output: Tensor = _native_conv(*call)
    return output


def conv_backward(backward: BackwardCall) -> tuple[Tensor | None, ...]:
    if not backward.forward.depthwise:
        return composite.conv_backward(backward)
    grads: tuple[Tensor | None, ...] = _native_conv_backward(*backward.arguments)
    return grads


def candidates(call: AnyCall) -> list[dict[str, Any]]:
    """The options that are worth measuring for a call: the kernels choose theirs by themselves."""
    return [{}] if isinstance(call, Call) or call.forward.depthwise else []


def run(call: AnyCall, options: dict[str, Any]) -> Any:
    """The call with some of the candidates' options."""
    return conv(call) if isinstance(call, Call) else conv_backward(call)
