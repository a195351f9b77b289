"""The one place where a kernel is launched, so that a launch can also be recorded instead of run.

Host code called on tensors of the device "meta" while recording yields exactly the kernels, arguments and constexprs of
a real call: that is how kernels are compiled ahead of time and how their cost is predicted, without a GPU.
"""

import contextvars
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
import triton

from .failure import failure

# Kernels run in Triton's interpreter, on CPU tensors: decided when they are defined, by TRITON_INTERPRET.
interpreted: bool = triton.knobs.runtime.interpret

# What the launcher takes besides the kernel's own arguments.
_OPTIONS = ("num_warps", "num_stages")


class Launch(NamedTuple):
    """A launch that was recorded."""

    kernel: Any
    grid: tuple[int, ...]
    args: dict[str, Any]  # by the names of the kernel's parameters, constexprs included
    options: dict[str, int]  # num_warps and num_stages


_recorded: contextvars.ContextVar[list[Launch] | None] = contextvars.ContextVar("kerneldna_launches", default=None)


@contextmanager
def recording() -> Iterator[list[Launch]]:
    """Launches of this thread are appended to the list and do not run."""
    launches: list[Launch] = []
    token = _recorded.set(launches)
    try:
        yield launches
    finally:
        _recorded.reset(token)


def launch(kernel: Any, grid: tuple[int, ...], *args: Any, **named: Any) -> None:
    """kernel[grid](*args, **named) on the device and the current stream of the first tensor.

    Raises KernelFailure where Triton cannot build, load or launch it.
    """
    if 0 in grid:
        return
    launches = _recorded.get()
    if launches is not None:
        options = {name: named.pop(name) for name in _OPTIONS if name in named}
        launches.append(Launch(kernel, grid, dict(zip(kernel.arg_names, args, strict=False)) | named, options))
        return
    with _device_of(args):
        try:
            # Fused multiply-add is what Triton did before its default changed; naming it keeps old and new alike.
            kernel[grid](*args, enable_fp_fusion=True, **named)
        except Exception as error:
            reason = failure(error)
            if reason is None:
                raise
            raise reason from error


def _device_of(args: tuple[Any, ...]) -> Any:
    tensor = next(arg for arg in args if isinstance(arg, torch.Tensor))
    return torch.cuda.device_of(tensor)


def cdiv(a: int, b: int) -> int:
    return -(-a // b)
