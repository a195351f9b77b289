"""The one place where a kernel is launched, so that a launch can also be recorded instead of run.

Host code called on tensors of the device "meta" while recording yields exactly the kernels, arguments and constexprs of
a real call: that is how kernels are compiled ahead of time and how their cost is predicted, without a GPU.
"""

import contextvars
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import takewhile
from typing import Any, NamedTuple

import torch
import triton

from .failure import failure
from .problem import cdiv as cdiv

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


class Launcher:
    """kernel[grid] with every argument decided but the tensors, which are a kernel's first, on the current stream.

    For tensors of one device, of the same dtypes and None in the same places. What Triton compiled for them is kept and
    called directly, without the search for it that Triton makes at each launch.
    """

    def __init__(self, kernel: Any, grid: tuple[int, ...], *values: Any, descriptors: int = 0, **named: Any) -> None:
        """values: the arguments that follow the tensors, of which so many are descriptors, the first."""
        self._kernel, self._grid, self._values, self._named = kernel, grid, values, named
        self._descriptors = descriptors
        self._direct: Callable[..., object] | None = None

    def __call__(self, *tensors: Any) -> None:
        """Raises KernelFailure where Triton cannot build, load or launch the kernel."""
        if self._direct is None or _recorded.get() is not None or not self._aligned(tensors):
            self._search(tensors)
            return
        with torch.cuda.device_of(tensors[0].base if self._descriptors else tensors[0]):
            self._direct(*tensors, *self._rest)

    def _aligned(self, tensors: tuple[Any, ...]) -> bool:
        """Whether all addresses are multiples of 16, as all but slices are: Triton compiles for that or without it."""
        addresses = 0
        for tensor in tensors[self._descriptors :]:
            if tensor is not None:
                addresses |= tensor.data_ptr()
        return addresses % 16 == 0

    def _search(self, tensors: tuple[Any, ...]) -> None:
        if 0 in self._grid:
            return
        kernel, named = self._kernel, self._named
        launches = _recorded.get()
        if launches is not None:
            options = {name: value for name, value in named.items() if name in _OPTIONS}
            constants = {name: value for name, value in named.items() if name not in _OPTIONS}
            args = dict(zip(kernel.arg_names, (*tensors, *self._values), strict=False))
            launches.append(Launch(kernel, self._grid, args | constants, options))
            return
        with torch.cuda.device_of(tensors[0].base if self._descriptors else tensors[0]):
            try:
                # Fused multiply-add is what Triton did before its default changed; naming it keeps old and new alike.
                compiled = kernel[self._grid](*tensors, *self._values, enable_fp_fusion=True, **named)
            except Exception as error:
                reason = failure(error)
                if reason is None:
                    raise
                raise reason from error
            if compiled is not None and self._aligned(tensors):  # the interpreter compiles nothing
                names = kernel.arg_names[len(tensors) + len(self._values) :]
                self._rest = (*self._values, *(named[name] for name in names))
                self._direct = compiled[(*self._grid, 1, 1)[:3]]


_launchers: dict[tuple[Any, ...], Launcher] = {}
_MOST_LAUNCHERS = 4096


def launch(kernel: Any, grid: tuple[int, ...], *args: Any, **named: Any) -> None:
    """kernel[grid](*args, **named) on the device and the current stream of the first tensor, and as a Launcher next
    time."""
    tensors = tuple(takewhile(lambda arg: arg is None or isinstance(arg, torch.Tensor), args))
    values = args[len(tensors) :]
    kinds = tuple(None if tensor is None else tensor.dtype for tensor in tensors)
    key = (kernel, grid, kinds, tensors[0].device, values, tuple(named.items()))
    launcher = _launchers.get(key)
    if launcher is None:
        if len(_launchers) >= _MOST_LAUNCHERS:
            _launchers.clear()
        launcher = _launchers[key] = Launcher(kernel, grid, *values, **named)
    launcher(*tensors)
