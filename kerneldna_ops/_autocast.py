"""Autocast for the ops, as for F.conv2d: every tensor goes to the low precision, float64 excepted."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def cast(device_type: str, args: tuple[Any, ...]) -> tuple[Any, ...]:
    """The arguments as the op gets them under autocast on this type of device."""
    dtype = torch.get_autocast_dtype(device_type)

    def eligible(value: Any) -> bool:
        return (
            isinstance(value, Tensor)
            and value.is_floating_point()
            and value.dtype != torch.float64
            and value.device.type == device_type
        )

    return tuple(value.to(dtype) if eligible(value) else value for value in args)


def kernel(op: Callable[..., Tensor], device_type: str) -> Callable[..., Tensor]:
    def cast_and_call(*args: Any) -> Tensor:
        with torch._C._DisableAutocast():
            return op(*cast(device_type, args))

    return cast_and_call
