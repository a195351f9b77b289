"""The fused Triton kernels of triton_kernels/, for GPUs; in tests, on CPU tensors in Triton's interpreter.

They work on channels_last tensors without a copy; an NCHW tensor is brought into that layout first.
"""

import contextlib
import functools
import importlib
import logging
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from ..checks import out_size
from ..triton_kernels import operands
from ..triton_kernels.config import Config
from ..triton_kernels.failure import KernelFailure, described, is_reason
from ..triton_kernels.problem import Problem
from . import CannotRun, _limits, _plans, _tuned

_log = logging.getLogger("kerneldna_ops")

TRITON_FLOOR = (3, 6)
_DTYPES = (torch.float32, torch.float16, torch.bfloat16)
_LARGEST_KERNEL = 32  # a bit for each row and each column of taps
_LARGEST_GRID_AXIS = 65_535  # groups times the remainders modulo the stride


def can_run(
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
) -> tuple[bool, str]:
    runs, reason = runs_on(input)
    if not runs:
        return runs, reason
    if max(weight.shape[2:]) > _LARGEST_KERNEL:
        return False, f"its kernels take at most {_LARGEST_KERNEL} taps a side, not {list(weight.shape[2:])}"
    if groups * math.prod(stride) > _LARGEST_GRID_AXIS:
        return False, f"groups times the stride's area is {groups * math.prod(stride)}, over {_LARGEST_GRID_AXIS}"
    geometry = (stride, padding, dilation, groups)
    problem = Problem.of(input, weight, channel_attention, spatial_attention, *geometry)
    pixels = max(input.shape[0] * math.prod(input.shape[2:]), problem.out_pixels)
    sizes = {**_limits.sizes(input, weight, stride, padding, dilation), "pixels": pixels}
    if too_large := _limits.too_large(sizes):
        return False, too_large
    return True, reason


def runs_on(input: Tensor) -> tuple[bool, str]:
    """Whether Triton kernels run on tensors of this device and dtype; if not, why."""
    if input.device.type == "cuda":
        if too_old := _limits.too_old(input.device):
            return False, too_old
    elif input.device.type != "cpu":
        return False, f"input is on {input.device}, not on a CUDA device"
    elif os.environ.get("TRITON_INTERPRET") != "1":
        return False, "input is on the CPU, where Triton only runs interpreted (TRITON_INTERPRET=1)"
    elif input.dtype is torch.bfloat16:
        return False, "Triton's interpreter miscalculates bfloat16"
    if input.dtype not in _DTYPES:
        return False, f"it has no kernel for {str(input.dtype).removeprefix('torch.')}"
    if missing := _triton_missing() or (input.device.type == "cuda" and _toolchain_missing()):
        return False, missing
    return True, "fused Triton kernels" + (", interpreted" if input.device.type == "cpu" else "")


@functools.cache
def _triton_missing() -> str:
    try:
        import triton
    except ImportError as error:
        return f"Triton cannot be imported ({error})"
    if tuple(map(int, triton.__version__.split(".")[:2])) < TRITON_FLOOR:
        return f"Triton {triton.__version__} is installed, {TRITON_FLOOR[0]}.{TRITON_FLOOR[1]} or newer is needed"
    return ""


@functools.cache
def _toolchain_missing() -> str:
    """The reason for which Triton can build no kernel at all: it compiles what calls the driver, once."""
    import triton

    try:
        _ = triton.runtime.driver.active.utils
    except Exception as error:
        if not is_reason(error):
            raise
        reason = f"Triton cannot build kernels on this machine ({described(error)})"
        _log.warning("triton is not used: %s", reason)
        return reason
    return ""


def kernels(name: str) -> Any:
    """A module of the kernels. They import triton, which takes its time and which only a call that runs here needs."""
    return importlib.import_module(f"kerneldna_ops.triton_kernels.{name}")


def conv(*args: Any) -> Tensor:
    output: Tensor = prepare("conv", args, args)(*args)
    return output


def conv_backward(*args: Any) -> tuple[Tensor | None, ...]:
    grads: tuple[Tensor | None, ...] = prepare("conv_backward", args[1:-1], args)(*args)
    return grads


def squeeze_excite(*args: Any) -> Tensor:
    try:
        gate: Tensor = kernels("squeeze_excite").squeeze_excite(*args)
    except KernelFailure as error:
        raise CannotRun(str(error)) from error
    return gate


# Of calls whose kernels take more of this GPU than it has: (function, shape class) -> the options that it can run.
_smaller: dict[tuple[str, str], dict[str, Any]] = {}
_MOST_SMALLER = 2  # so many are tried: each takes about a second to build


def prepare(function: str, conv_args: tuple[Any, ...], args: tuple[Any, ...]) -> Callable[..., Any]:
    """What answers this call of "conv" or "conv_backward" and all others of its signature (_plans.py)."""
    entry = _tuned.find(function, conv_args)
    options = _smaller.get((function, _tuned.key_of(*conv_args)), {} if entry is None else entry.options)
    prepared = _prepared(function, options, args)

    def call(*args: Any) -> Any:
        try:
            return prepared(*args)
        except KernelFailure as error:
            failure = error
        # What ran before the kernel that failed has written to workspaces of its own alone.
        conv_args = args if function == "conv" else args[1:-1]
        for smaller in _smaller_tiles(function, conv_args, options) if failure.out_of_resources else ():
            with contextlib.suppress(KernelFailure):
                result = run(function, args, smaller)
                _smaller[function, _tuned.key_of(*conv_args)] = smaller
                _plans.forget()
                return result
        raise CannotRun(str(failure)) from failure

    return call


def _smaller_tiles(function: str, conv_args: tuple[Any, ...], options: dict[str, Any]) -> list[dict[str, Any]]:
    """The options for the forward that take less shared memory than these, the next smaller first."""
    ways = candidates(function, conv_args)
    if function != "conv" or ways == [{}]:
        return []

    def shared(way: dict[str, Any]) -> int:
        return way["num_stages"] * way["block_k"] * (way["block_m"] + way["block_n"])  # type: ignore[no-any-return]

    first = options or ways[0]
    return sorted((way for way in ways if shared(way) < shared(first)), key=shared, reverse=True)[:_MOST_SMALLER]


def candidates(function: str, conv_args: tuple[Any, ...]) -> list[dict[str, Any]]:
    """The options that are worth measuring for a call."""
    input, weight, _, channel, filter, spatial, *geometry = conv_args
    problem = Problem.of(input, weight, channel, spatial, *geometry)
    if problem.depthwise:
        return [{}]
    if function == "conv":
        ways = _forward_ways(problem, input.device)
    else:
        attentions = operands.per_sample(filter, None), operands.per_sample(None, spatial)
        ways = kernels("backward_choice").choices(*attentions)
    return [asdict(way) for way in ways]


def _forward_ways(problem: Problem, device: torch.device) -> Any:
    """Configurations, the one predicted to be fastest first."""
    return kernels("forward_choice").candidates(problem, kernels("cost_model").device_running(device))


def run(function: str, args: tuple[Any, ...], options: dict[str, Any]) -> Any:
    """The call with some of the candidates' options; with none, as the rules for what nobody tuned choose."""
    return _prepared(function, options, args)(*args)


def _prepared(function: str, options: dict[str, Any], args: tuple[Any, ...]) -> Callable[..., Any]:
    return _forward(options, *args) if function == "conv" else functools.partial(_backward, options)


def _forward(
    options: dict[str, Any],
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    channel_attention: Tensor | None,
    filter_attention: Tensor | None,
    spatial_attention: Tensor | None,
    *geometry: Any,
) -> Callable[..., Tensor]:
    problem = Problem.of(input, weight, channel_attention, spatial_attention, *geometry)
    if not problem.batch:
        return _no_samples
    if problem.depthwise:
        return functools.partial(_depthwise, problem)
    config = Config.of(options) if options else _forward_ways(problem, input.device)[0]
    attentions = channel_attention, filter_attention, spatial_attention
    forward: Callable[..., Tensor] = kernels("conv_plan").forward(config, problem, input, weight, bias, *attentions)
    return forward


def _no_samples(input: Tensor, weight: Tensor, *others: Any) -> Tensor:
    geometry = zip(input.shape[2:], weight.shape[2:], *others[4:7], strict=True)
    return input.new_empty(0, len(weight), *(out_size(*size) for size in geometry))


def _depthwise(problem: Problem, input: Tensor, weight: Tensor, bias: Tensor | None, *others: Any) -> Tensor:
    depthwise = kernels("conv_depthwise").depthwise_forward
    y = depthwise(operands.pixels(input), weight[:, 0].contiguous(), *others[:3], bias, problem)
    return operands.image(y)  # type: ignore[no-any-return]


def _backward(
    options: dict[str, Any],
    grad_output: Tensor,
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
    output_mask: Sequence[bool],
) -> tuple[Tensor | None, ...]:
    attentions = (channel_attention, filter_attention, spatial_attention)
    problem = Problem.of(input, weight, channel_attention, spatial_attention, stride, padding, dilation, groups)
    if problem.depthwise:
        x, gy = operands.pixels(input), operands.pixels(grad_output)
        depthwise = kernels("conv_depthwise").depthwise_backward
        grads = depthwise(gy, x, weight[:, 0].contiguous(), *attentions, bias, problem, output_mask)
        dx, dw = grads[:2]
        return None if dx is None else operands.image(dx), None if dw is None else dw[:, None], *grads[2:]
    backward = kernels("conv_backward")
    choice = kernels("backward_choice").Choice(**options) if options else None
    gradients: tuple[Tensor | None, ...] = backward.gradients(
        grad_output, input, weight, bias, *attentions, problem, output_mask, choice
    )
    return gradients
