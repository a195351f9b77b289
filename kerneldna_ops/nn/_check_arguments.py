"""What the layers say about arguments of their constructors that do not fit, one sentence each."""

import operator
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, TypeAlias

import torch
from torch import nn

Norm: TypeAlias = Callable[[int], nn.Module]  # from a number of channels or features


def whole(layer: str, name: str, value: Any, minimum: int = 1) -> int:
    """A whole number, NumPy's included, of at least `minimum`."""
    try:
        number = operator.index(value)
    except TypeError:
        number = None
    if number is None or isinstance(value, bool):
        raise TypeError(f"{layer}: {name} must be an int, got {value!r}")
    if number < minimum:
        raise ValueError(f"{layer}: {name} must be at least {minimum}, got {value}")
    return number


def flag(layer: str, name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise TypeError(f"{layer}: {name} must be True or False, got {value!r}")
    return value


def norm_of(
    layer: str, norm_layer: Norm | None, features: int, device: torch.device | str | None, dtype: torch.dtype | None
) -> nn.Module:
    """The norm over so many features, where the layer is; none is an nn.Identity."""
    if norm_layer is None:
        return nn.Identity()
    if not callable(norm_layer):
        raise TypeError(f"{layer}: norm_layer must be called with a number of features, or None, got {norm_layer!r}")
    with nullcontext() if device is None else torch.device(device):
        norm = norm_layer(features)
    if not isinstance(norm, nn.Module):
        raise TypeError(f"{layer}: norm_layer must give a torch.nn.Module, got {type(norm).__name__}")
    return norm if dtype is None else norm.to(dtype=dtype)
