"""What the layers say about arguments of their constructors and about inputs that do not fit, one sentence each."""

import math
import operator
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from ..checks import check_input, check_tensor

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


def positive(layer: str, name: str, value: Any) -> float:
    """A finite number above 0."""
    try:
        number = None if isinstance(value, bool | str) else float(value)
    except (TypeError, ValueError):
        number = None
    if number is None:
        raise TypeError(f"{layer}: {name} must be a number, got {value!r}")
    if not 0 < number < math.inf:
        raise ValueError(f"{layer}: {name} must be above 0 and finite, got {value}")
    return number


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


def check_layer_input(
    layer: str, input: Tensor, channels: int, name: str, parameter: Tensor | None, input_name: str = "input"
) -> None:
    """Input must be [N, channels, H, W], only N may be 0, with the dtype (except under autocast) and on the device of
    `parameter`, if there is one to go by. `input_name` is that of the forward's argument."""
    check_input(layer, input, f"[N, {channels}, H, W]", input_name)
    if torch._C._get_tracing_state() is not None:
        return  # there sizes are tensors, and to compare them is recorded, with a warning
    shape = list(input.shape)
    if input.shape[1] != channels:
        raise ValueError(f"{layer}: {input_name} must have {channels} channels, got {shape[1]} in {shape}")
    if input.shape[2] == 0 or input.shape[3] == 0:
        raise ValueError(f"{layer}: only the batch of {input_name} may be empty, got {shape}")
    if parameter is not None:
        check_like(layer, name, parameter, input, input_name)


def check_per_sample(layer: str, name: str, tensor: Any, input: Tensor, size: int) -> None:
    """A forward's other argument must be [N, size] for an input of N samples."""
    if not isinstance(tensor, Tensor):
        raise TypeError(f"{layer}: {name} must be a tensor [N, {size}], got {type(tensor).__name__}")
    check_tensor(layer, name, tensor)
    if torch._C._get_tracing_state() is not None:
        return
    expected = [input.shape[0], size]
    if list(tensor.shape) != expected:
        raise ValueError(f"{layer}: {name} must have shape {expected}, got {list(tensor.shape)}")


def check_like(layer: str, name: str, tensor: Tensor, input: Tensor, input_name: str) -> None:
    """It must have the dtype of the input (except under autocast) and be on its device."""
    if input.device != tensor.device:
        raise ValueError(f"{layer}: {name} must be on the device of {input_name} ({input.device}), got {tensor.device}")
    if input.dtype != tensor.dtype and not torch.is_autocast_enabled(input.device.type):
        wanted, got = (str(dtype).removeprefix("torch.") for dtype in (input.dtype, tensor.dtype))
        raise TypeError(f"{layer}: {name} must have the dtype of {input_name} ({wanted}), got {got}")
