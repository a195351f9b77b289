"""The fused CUDA kernels of csrc/cuda, for GPUs. backends/cuda_host.py runs the same kernels on the CPU, for tests.

Gradients they make of depthwise convolutions alone; of others composite does. They work on channels_last tensors
without a copy; an NCHW tensor is brought into that layout first.
"""

import functools
import logging
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from . import _limits, composite

_native_conv = torch.ops.kerneldna._native_conv
_native_conv_backward = torch.ops.kerneldna._native_conv_backward
_cuda_refusal = torch.ops.kerneldna._cuda_refusal
_cuda_conv_refusal = torch.ops.kerneldna._cuda_conv_refusal
squeeze_excite = torch.ops.kerneldna._native_squeeze_excite

_log = logging.getLogger("kerneldna_ops")

_DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def can_run(input: Tensor, *args: Any) -> tuple[bool, str]:
    runs, reason = runs_on(input)
    if runs and (against := call_refusal(input, *args)):
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
    if refusal and not _limits.too_old(torch.device("cuda", device)):
        _log.warning("cuda does not run on cuda:%d: %s", device, refusal)
    return refusal


def without_kernel(input: Tensor) -> str:
    return "" if input.dtype in _DTYPES else f"it has no kernel for {str(input.dtype).removeprefix('torch.')}"


def call_refusal(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    channel_attention: Tensor | None,
    filter_attention: Tensor | None,
    spatial_attention: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> str:
    """Why the kernels do not take a call, or nothing: csrc/cuda/conv_refusal.h says it to C++, too."""
    reason: str = _cuda_conv_refusal(input.shape, weight.shape, stride, padding, dilation, groups, input.dtype.itemsize)
    return reason


def has_gradients(input: Tensor, *args: Any) -> bool:
    """Of a convolution that the kernels take, with the arguments of the forward: whether it is depthwise."""
    return 1 < args[-1] == input.shape[1]  # type: ignore[no-any-return]


def conv(*args: Any) -> Tensor:
    output: Tensor = _native_conv(*args)
    return output


def conv_backward(*args: Any) -> tuple[Tensor | None, ...]:
    if not has_gradients(*args[1:-1]):
        return composite.conv_backward(*args)
    grads: tuple[Tensor | None, ...] = _native_conv_backward(*args)
    return grads


def candidates(function: str, conv_args: tuple[Any, ...]) -> list[dict[str, Any]]:
    """The options that are worth measuring for a call: the kernels choose theirs by themselves."""
    return [{}] if function == "conv" or has_gradients(*conv_args) else []


def run(function: str, args: tuple[Any, ...], options: dict[str, Any]) -> Any:
    """The call with some of the candidates' options."""
    return (conv if function == "conv" else conv_backward)(*args)
