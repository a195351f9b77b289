"""What the functions take beyond what the op takes, and what they say of arguments that do not fit.

Integers of NumPy and of tensors, one for a pair, padding by name, maps of one pixel for channels, a bias for each of
several kernels.
"""

import operator
from collections.abc import Sequence
from typing import Any, Literal, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from ._tracing import not_traced
from .call import Call
from .checks import (
    DTYPES,
    SIZE,
    check_conv,
    check_input,
    check_named_padding,
    check_pair,
    check_tensor,
    check_weight,
)
from .op import autocast

Pair: TypeAlias = int | tuple[int, int]
Single: TypeAlias = int | tuple[int]
Padding: TypeAlias = Pair | Literal["same", "valid"]


def op_arguments(*args: Any) -> tuple[Any, ...]:
    """What the op takes, for the arguments of `conv2d`."""
    input, weight, bias, c, f, s, stride, padding, dilation, groups, a = args
    stride, dilation = pair("stride", stride), pair("dilation", dilation)
    if isinstance(padding, str):
        input, padding = named_padding(input, weight, padding, stride, dilation, a)
    else:
        padding = pair("padding", padding)
    if type(groups) is not int:
        groups = integer("groups must be an int", groups)
    if c is not None:
        c = without_pixel("channel_attention", c)
    if f is not None:
        f = without_pixel("filter_attention", f)
    if a is not None:
        a = without_pixel("kernel_attention", a)
        bias = mixed_bias(bias, weight, a)
    return input, weight, bias, c, f, s, stride, padding, dilation, groups, a


def without_defaults(args: tuple[Any, ...]) -> tuple[Any, ...]:
    """Without the last ones that are the op's defaults, as the dispatcher takes its time to read each. For eager calls:
    to compare a number of a graph is to fix it."""
    if args[10] is not None:
        return args
    if args[9] != 1 or args[8] != (1, 1):
        return args[:10]
    return args[:8] if args[7] != (0, 0) or args[6] != (1, 1) else args[:6]


def pair(name: str, value: Any, op: str = "conv2d") -> tuple[int, int]:
    """Two integers, of one that stands for both."""
    if type(value) is int:
        return value, value
    if type(value) is tuple and len(value) == 2 and type(value[0]) is type(value[1]) is int:
        return value
    values = value if isinstance(value, Sequence) else (value,)
    pair = tuple(integer(f"{name} must be an int or a pair of ints", v, value, op) for v in values)
    return pair * 2 if len(pair) == 1 else pair  # type: ignore[return-value]


def single(name: str, value: Single) -> tuple[int]:
    """The integer of the one axis of conv1d."""
    one = value[0] if isinstance(value, (tuple, list)) and len(value) == 1 else value
    return (integer(f"{name} must be an int", one, value, "conv1d"),)


def integer(expected: str, value: Any, given: Any = None, op: str = "conv2d") -> int:
    """What F.conv2d takes for an integer: NumPy's too and a tensor's, but no bool."""
    given = value if given is None else given
    if isinstance(value, torch.SymInt):
        return value  # type: ignore[return-value]
    number = (
        value.dim() == 0 and value.dtype != torch.bool if isinstance(value, Tensor) else not isinstance(value, bool)
    )
    try:
        if number:
            return operator.index(value)
    except TypeError:
        pass
    raise TypeError(f"{op}: {expected}, got {given!r}")


def one_sample(op: str, input: Tensor) -> Tensor:
    """The batch of a single image."""
    check_tensor(op, "input", input)
    return input[None]


def without_pixel(name: str, attention: Tensor | None, op: str = "conv2d") -> Tensor | None:
    """Of the map of one pixel that the blocks of squeeze-and-excitation give, the channels."""
    if isinstance(attention, Tensor) and attention.dim() > 2:
        check_tensor(op, name, attention)
        with not_traced():
            is_pixel = attention.shape[-2:] == (1, 1)
        if is_pixel:
            return attention[..., 0, 0]
    return attention


def mixed_bias(
    bias: Tensor | None, weight: Tensor, kernel_attention: Tensor | None, op: str = "conv2d"
) -> Tensor | None:
    """The bias of each sample, where each kernel has one."""
    if not (isinstance(bias, Tensor) and isinstance(weight, Tensor) and bias.dim() == 2):
        return bias
    check_tensor(op, "bias", bias)
    check_tensor(op, "weight", weight)
    if kernel_attention is not None:
        check_tensor(op, "kernel_attention", kernel_attention)
    with not_traced():
        kernels, biases = weight.shape[0], bias.shape[0]
        shares = None if kernel_attention is None else kernel_attention.shape[1:]
    if biases != kernels:
        raise ValueError(
            f"{op}: bias must have shape [C_out] or, one for each kernel, [{kernels}, C_out], got {list(bias.shape)}"
        )
    if kernel_attention is None or shares != (kernels,):
        return None  # the op says what is wrong with kernel_attention
    tensors = (weight, kernel_attention, bias)
    kinds = [(tensor.dtype, tensor.device) for tensor in tensors]
    if kinds[0] != kinds[1] or kinds[0] != kinds[2]:
        kinds = [(autocast.dtype_of(tensor), tensor.device) for tensor in tensors]
    if kinds[0] == kinds[1] == kinds[2] and kinds[0][0] in DTYPES:
        return kernel_attention @ bias
    return None if kinds[1] != kinds[0] else bias[0]  # and here with which of the two


def named_padding(
    input: Tensor,
    weight: Tensor,
    name: str,
    stride: tuple[int, ...],
    dilation: tuple[int, ...],
    kernel_attention: Tensor | None,
    axes: int = 2,
) -> tuple[Tensor, tuple[int, ...]]:
    """The input and the padding in numbers. Of an odd total the odd row or column goes to the end, as in F.conv2d."""
    op = f"conv{axes}d"
    if name == "valid":
        return input, (0,) * axes
    if name != "same" and (name != "causal" or axes != 1):
        expected = "an int, a pair of ints, 'same' or 'valid'" if axes == 2 else "an int, 'same', 'valid' or 'causal'"
        raise ValueError(f"{op}: padding must be {expected}, got {name!r}")
    check_pair(op, "stride", stride, 1, axes)
    if name == "same" and any(step != 1 for step in stride):
        raise ValueError(f"{op}: padding='same' needs stride 1, got {stride}")
    check_input(op, input, f"[N, C_in, {SIZE[axes]}]")
    check_weight(op, weight, kernel_attention, axes)
    check_pair(op, "dilation", dilation, 1, axes)
    with not_traced():
        kernel = weight.shape[-axes:]
        totals = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
        check_named_padding(op, name, totals, kernel, dilation)
    if name == "causal":
        return F.pad(input, (totals[0], 0)), (0,)
    if any(total % 2 for total in totals):
        input = F.pad(input, [side for total in reversed(totals) for side in (0, total % 2)])
    return input, tuple(total // 2 for total in totals)


def as_row(name: str, tensor: Tensor | None) -> Tensor | None:
    """Of a tensor of conv1d that of conv2d, with an axis for the one row."""
    along = name in ("input", "weight", "spatial_attention")
    return tensor.unsqueeze(-2) if along and isinstance(tensor, Tensor) and tensor.dim() else tensor


def check(call: Call, axes: int = 2) -> None:
    device_type = call.input.device.type if isinstance(call.input, Tensor) else "cpu"
    if torch.amp.is_autocast_available(device_type) and torch.is_autocast_enabled(device_type):
        call = Call(*autocast.cast(device_type, call))
    check_conv(f"conv{axes}d", call, axes)
