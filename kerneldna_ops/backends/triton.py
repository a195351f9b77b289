"""The fused Triton kernels of triton_kernels/, for GPUs; in tests, on CPU tensors in Triton's interpreter.

They work on channels_last tensors without a copy; an NCHW tensor is brought into that layout first. The kernels'
modules import triton, which takes its time and which only a call that runs here needs: so functions import them.
"""

import contextlib
import functools
import logging
import math
import os
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from ..call import AnyCall, BackwardCall, Call
from ..triton_kernels import operands
from ..triton_kernels.config import Config
from ..triton_kernels.failure import KernelFailure, described, is_reason
from ..triton_kernels.problem import Problem
from . import _plans, _tuned
from ._plans import CannotRun
from .cuda import too_old

_log = logging.getLogger("kerneldna_ops")

TRITON_FLOOR = (3, 6)
_DTYPES = (torch.float32, torch.float16, torch.bfloat16)
_LARGEST_KERNEL = 32  # a bit for each row and each column of taps
_LARGEST_INT32 = 2**31 - 1
_LARGEST_GRID_AXIS = 65_535  # groups times the remainders modulo the stride


def can_run(call: Call) -> tuple[bool, str]:
    runs, reason = runs_on(call.input)
    if not runs:
        return runs, reason
    if call.kernels != "shared" or call.kind("bias") == "per_sample":
        return False, "its kernels read one weight and one bias for all samples"
    problem = Problem.of(call)
    if max(problem.kernel_size) > _LARGEST_KERNEL:
        return False, f"its kernels take at most {_LARGEST_KERNEL} taps a side, not {list(problem.kernel_size)}"
    grid = problem.groups * math.prod(problem.stride)
    if grid > _LARGEST_GRID_AXIS:
        return False, f"groups times the stride's area is {grid}, over {_LARGEST_GRID_AXIS}"
    for what, size in problem.counted_in_32_bits.items():
        if size > _LARGEST_INT32:
            return False, f"{size} {what}, its kernels count to {_LARGEST_INT32}"
    return True, reason


def runs_on(input: Tensor) -> tuple[bool, str]:
    """Whether Triton kernels run on tensors of this device and dtype; if not, why."""
    if input.device.type == "cuda":
        if reason := too_old(input.device):
            return False, reason
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


def conv(call: Call) -> Tensor:
    output: Tensor = prepare(call)(call)
    return output


def conv_backward(backward: BackwardCall) -> tuple[Tensor | None, ...]:
    grads: tuple[Tensor | None, ...] = prepare(backward)(backward)
    return grads


def squeeze_excite(*args: Any) -> Tensor:
    from ..triton_kernels import squeeze_excite as kernels

    try:
        gate: Tensor = kernels.squeeze_excite(*args)
    except KernelFailure as error:
        raise CannotRun(str(error)) from error
    return gate


# Of calls whose kernels take more of this GPU than it has: (function, shape class) -> the options that it can run.
_smaller: dict[tuple[str, str], dict[str, Any]] = {}
_MOST_SMALLER = 2  # so many are tried: each takes about a second to build


def prepare(first: AnyCall) -> Callable[[Any], Any]:
    """What answers this call and all others of its signature (_plans.py)."""
    entry = _tuned.find(first)
    options = _smaller.get((first.function, _tuned.key_of(first.forward)), {} if entry is None else entry.options)
    prepared = _prepared(first, options)

    def answer(call: AnyCall) -> Any:
        try:
            return prepared(call)
        except KernelFailure as error:
            failure = error
        # What ran before the kernel that failed has written to workspaces of its own alone.
        for smaller in _smaller_tiles(call, options) if failure.out_of_resources else ():
            with contextlib.suppress(KernelFailure):
                result = run(call, smaller)
                _smaller[call.function, _tuned.key_of(call.forward)] = smaller
                _plans.forget()
                return result
        raise CannotRun(str(failure)) from failure

    return answer


def _smaller_tiles(call: AnyCall, options: dict[str, Any]) -> list[dict[str, Any]]:
    """The options for the forward that take less shared memory than these, the next smaller first."""
    ways = candidates(call)
    if isinstance(call, BackwardCall) or ways == [{}]:
        return []

    def shared(way: dict[str, Any]) -> int:
        return way["num_stages"] * way["block_k"] * (way["block_m"] + way["block_n"])  # type: ignore[no-any-return]

    first = options or ways[0]
    return sorted((way for way in ways if shared(way) < shared(first)), key=shared, reverse=True)[:_MOST_SMALLER]


def candidates(call: AnyCall) -> list[dict[str, Any]]:
    """The options that are worth measuring for a call."""
    problem = Problem.of(call.forward)
    if problem.plain_depthwise:
        return [{}]
    if isinstance(call, Call):
        return [asdict(config) for config in _forward_configs(problem, call.input.device)]

    from ..triton_kernels import backward_choice

    per_sample = (call.forward.kind(field) == "per_sample" for field in ("filter_attention", "spatial_attention"))
    return [asdict(choice) for choice in backward_choice.choices(*per_sample)]


def _forward_configs(problem: Problem, device: torch.device) -> tuple[Config, ...]:
    """The one predicted to be fastest first."""
    from ..triton_kernels import cost_model, forward_choice

    configs: tuple[Config, ...] = forward_choice.candidates(problem, cost_model.device_running(device))
    return configs


def run(call: AnyCall, options: dict[str, Any]) -> Any:
    """The call with some of the candidates' options; with none, as the rules for what nobody tuned choose."""
    return _prepared(call, options)(call)


def _prepared(call: AnyCall, options: dict[str, Any]) -> Callable[[Any], Any]:
    return _forward(call, options) if isinstance(call, Call) else functools.partial(_backward, options)


def _forward(call: Call, options: dict[str, Any]) -> Callable[[Call], Tensor]:
    from ..triton_kernels import conv_plan

    problem = Problem.of(call)
    if not problem.batch:
        return lambda call: call.input.new_empty(call.output_shape)
    if problem.plain_depthwise:
        return functools.partial(_depthwise, problem)
    config = Config.of(options) if options else _forward_configs(problem, call.input.device)[0]
    forward: Callable[[Call], Tensor] = conv_plan.forward(config, problem, call)
    return forward


def _depthwise(problem: Problem, call: Call) -> Tensor:
    from ..triton_kernels import conv_depthwise

    input, weight, bias, *attentions = call[:6]
    y = conv_depthwise.depthwise_forward(operands.pixels(input), weight[:, 0].contiguous(), *attentions, bias, problem)
    return operands.image(y)  # type: ignore[no-any-return]


def _backward(options: dict[str, Any], backward: BackwardCall) -> tuple[Tensor | None, ...]:
    from ..triton_kernels import backward_choice, conv_backward, conv_depthwise

    grad_output, call, output_mask = backward
    problem = Problem.of(call)
    if problem.plain_depthwise:
        input, weight, bias, *attentions = call[:6]
        x, gy = operands.pixels(input), operands.pixels(grad_output)
        grads = conv_depthwise.depthwise_backward(
            gy, x, weight[:, 0].contiguous(), *attentions, bias, problem, output_mask[:6]
        )
        dx, dw = grads[:2]
        return None if dx is None else operands.image(dx), None if dw is None else dw[:, None], *grads[2:], None
    choice = backward_choice.Choice(**options) if options else None
    gradients: tuple[Tensor | None, ...] = conv_backward.gradients(backward, problem, choice)
    return gradients
