"""The backend: the CUDA kernels' own source run on CPU tensors, one thread after the other, by explicit choice only."""

import functools
import importlib

import torch
from torch import Tensor

from kerneldna_ops.backends import composite, cuda
from kerneldna_ops.call import BackwardCall, Call


def can_run(call: Call) -> tuple[bool, str]:
    runs, reason = runs_on(call.input)
    if runs and (against := cuda.call_refusal(call)):
        return False, against
    return runs, reason


def runs_on(input: Tensor) -> tuple[bool, str]:
    """Whether the kernels run on tensors of this device and dtype here; if not, why."""
    if reason := _module_missing():
        return False, reason
    if input.device.type != "cpu":
        return False, f"input is on {input.device}, not on the CPU"
    if reason := cuda.without_kernel(input):
        return False, reason
    return True, "the CUDA kernels' source, run on the CPU"


@functools.cache
def _module_missing() -> str:
    """Importing the module registers its ops."""
    try:
        importlib.import_module("host_execution._cuda_host")
    except ModuleNotFoundError:
        return "it is not built (`make host-kernels`)"
    except ImportError as error:
        return f"it does not load ({error}); build it again with `make host-kernels`"
    return ""


def conv(call: Call) -> Tensor:
    output: Tensor = torch.ops.kerneldna_cuda_host.conv(*call)
    return output


def conv_backward(backward: BackwardCall) -> tuple[Tensor | None, ...]:
    if not backward.forward.depthwise:
        return composite.conv_backward(backward)
    grads: tuple[Tensor | None, ...] = torch.ops.kerneldna_cuda_host.conv_backward(*backward.arguments)
    return grads


def squeeze_excite(
    input: Tensor, fc1_weight: Tensor, fc1_bias: Tensor | None, fc2_weight: Tensor, fc2_bias: Tensor | None
) -> Tensor:
    gate: Tensor = torch.ops.kerneldna_cuda_host.squeeze_excite(input, fc1_weight, fc1_bias, fc2_weight, fc2_bias)
    return gate
