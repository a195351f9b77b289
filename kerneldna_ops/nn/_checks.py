"""What the layers say about arguments of their constructors and about inputs that do not fit, one sentence each."""

import operator
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from ..checks import check_input

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


def check_layer_input(layer: str, input: Tensor, channels: int, name: str, parameter: Tensor | None) -> None:
    """Input must be [N, channels, H, W], only N may be 0, with the dtype (except under autocast) and on the device of
    `parameter`, if there is one to go by."""
    check_input(layer, input, f"[N, {channels}, H, W]")
    if torch._C._get_tracing_state() is not None:
        return  # there sizes are tensors, and to compare them is recorded, with a warning
    if input.shape[1] != channels:
        raise ValueError(f"{layer}: input must have {channels} channels, got {input.shape[1]} in {list(input.shape)}")
    if input.shape[2] == 0 or input.shape[3] == 0:
        raise ValueError(f"{layer}: only the batch of input may be empty, got {list(input.shape)}")
    if parameter is None:
        return
    if input.device != parameter.device:
        raise ValueError(f"{layer}: {name} must be on the device of input ({input.device}), got {parameter.device}")
    if input.dtype != parameter.dtype and not torch.is_autocast_enabled(input.device.type):
        wanted, got = (str(tensor.dtype).removeprefix("torch.") for tensor in (input, parameter))
        raise TypeError(f"{layer}: {name} must have the dtype of input ({wanted}), got {got}")
