"""Autocast for the ops, as for F.conv2d: every tensor goes to the low precision, float64 excepted.

A parameter, which several calls may share, is cast once in a region of autocast, as PyTorch's own operators do it.
"""

import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ..checks import is_freed


def cast(device_type: str, args: tuple[Any, ...]) -> tuple[Any, ...]:
    """The arguments as the op gets them under autocast on this type of device."""
    dtype = torch.get_autocast_dtype(device_type)
    return tuple(_cast_once(value, dtype) if _is_cast(value, device_type) else value for value in args)


def dtype_of(tensor: Tensor) -> torch.dtype:
    """In which the op gets it, inside of autocast or outside."""
    device_type = tensor.device.type
    enabled = torch.amp.is_autocast_available(device_type) and torch.is_autocast_enabled(device_type)
    return torch.get_autocast_dtype(device_type) if enabled and _is_cast(tensor, device_type) else tensor.dtype


def _is_cast(value: Any, device_type: str) -> bool:
    return (
        isinstance(value, Tensor)
        and value.is_floating_point()
        and value.dtype != torch.float64
        and value.device.type == device_type
        and not is_freed(value)  # the op refuses it, and a cast would read it
    )


def _cast_once(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """The same cast again for a leaf that wants a gradient, as long as nobody has changed it."""
    if not (
        tensor.requires_grad
        and tensor.is_leaf
        and tensor.dtype == torch.float32
        and type(tensor) in (Tensor, nn.Parameter)
        and not tensor._is_view()
        and not tensor.is_inference()
        and torch.is_autocast_cache_enabled()
        and not torch._C._are_functorch_transforms_active()
        and torch._C._get_tracing_state() is None  # what was cast before the trace would be a constant of it
    ):
        return tensor.to(dtype)
    casts = _casts()
    key = id(tensor), dtype, torch.is_grad_enabled(), torch.is_inference_mode_enabled()
    known = casts.get(key)
    if known is None or known[1] != tensor._version:
        # The tensor itself is kept too, so that no other one takes its id.
        known = casts[key] = (tensor, tensor._version, tensor.to(dtype))
    return known[2]


class _Casts(dict[Any, tuple[Tensor, int, Tensor]]):
    """What was cast: the tensor, its version and the result."""


_current: Callable[[], _Casts | None] = lambda: None  # noqa: E731
_leaf = torch.ones(1, 1, requires_grad=True)


def _casts() -> _Casts:
    """Those of the outermost region of autocast around; they are gone when it ends.

    PyTorch's own cache lives just as long, but cannot be read from Python. What can be is whether something in it is
    still alive: so a leaf is cast by an operator of PyTorch, whose cache then alone keeps the node of the leaf in the
    graph of autograd alive, and on that node hang the casts of this module.
    """
    global _current
    casts = _current()
    if casts is None:
        with torch.inference_mode(False), torch.enable_grad(), torch.autocast("cpu", torch.bfloat16):
            torch.mm(_leaf, _leaf)
            node = torch.autograd.graph.get_gradient_edge(_leaf).node
        casts = _Casts()
        node.metadata["kerneldna_ops casts"] = casts  # type: ignore[index]
        _current = weakref.ref(casts)
    return casts


def kernel(op: Callable[..., Tensor], device_type: str) -> Callable[..., Tensor]:
    def cast_and_call(*args: Any) -> Tensor:
        args = cast(device_type, args)
        with torch._C._DisableAutocast():
            return op(*args)

    return cast_and_call
