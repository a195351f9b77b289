"""The arguments of the ops, checked with the sentences of csrc (conv_call.cpp, cpu/squeeze_excite.cpp).

Python needs them where the C++ checks do not run (fake tensors, devices without a C++ kernel) and to say TypeError or
ValueError where the dispatcher can only say RuntimeError.
"""

import math
from collections.abc import Sequence
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from ._tracing import not_traced
from .call import TENSORS, BackwardCall, Call, out_size

# By the number of axes, along which a kernel moves.
SIZE = {1: "L", 2: "H, W"}
TAPS = {1: "k", 2: "kh, kw"}

_LARGEST_PADDING = 2**24
DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


def check_conv(op: str, call: Call, axes: int = 2) -> None:
    """A TypeError or ValueError, where one is due, names the argument, what was expected and what came."""
    input, weight, bias, _, _, _, stride, padding, dilation, groups, kernel_attention = call
    check_input(op, input, f"[N, C_in, {SIZE[axes]}]")
    check_weight(op, weight, kernel_attention, axes)
    _check_like_input(op, "weight", weight, input)
    _check_geometry(op, stride, padding, dilation, groups, axes)

    n, c, *pixels = input.shape
    o, c_per_group, *kernel = weight.shape[-2 - axes :]
    if not all(number > 0 for number in (c, *pixels, o, *kernel)):
        _refuse(op, f"only the batch of input may be empty, got input {_shape(input)} and weight {_shape(weight)}")
    if c % groups != 0 or o % groups != 0:
        _refuse(op, f"groups must divide C_in = {c} and C_out = {o}, got {groups}")
    if c_per_group != c // groups:
        _refuse(
            op, f"weight must have C_in/groups = {c // groups} input channels, got {c_per_group} in {_shape(weight)}"
        )
    if bias is not None:
        _check_like_input(op, "bias", bias, input)
        if list(bias.shape) not in ([o], [n, o]):
            _refuse(op, f"bias must have shape [{o}] or [{n}, {o}] (per sample), got {_shape(bias)}")
    _check_attention(op, "channel_attention", call, n, c)
    _check_attention(op, "filter_attention", call, n, o)
    _check_attention(op, "spatial_attention", call, n, *kernel)
    if kernel_attention is not None:
        _check_like_input(op, "kernel_attention", kernel_attention, input)
        _check_shares(op, kernel_attention, weight, n)
    elif weight.dim() == 3 + axes and weight.shape[0] != n:
        _refuse(
            op, f"weight must have a kernel for each of the N = {n} samples, got {weight.shape[0]} in {_shape(weight)}"
        )
    if not all(out_size(*axis) > 0 for axis in zip(pixels, kernel, stride, padding, dilation, strict=True)):
        _refuse(
            op,
            f"the output would be empty: a kernel of {kernel} with dilation {list(dilation)} does not fit into an"
            f" input of {pixels} with padding {list(padding)}",
        )


def check_conv_backward(op: str, call: BackwardCall) -> None:
    grad_output, forward, output_mask = call
    check_conv(op, forward)
    _check_like_input(op, "grad_output", grad_output, forward.input)
    if list(grad_output.shape) != list(forward.output_shape):
        _refuse(op, f"grad_output must have shape {list(forward.output_shape)}, got {_shape(grad_output)}")
    if len(output_mask) != len(TENSORS):
        _refuse(op, f"output_mask must have {len(TENSORS)} values, got {len(output_mask)}")
    for name, tensor, wanted in zip(TENSORS, forward.tensors, output_mask, strict=True):
        if wanted and tensor is None:
            _refuse(op, f"output_mask asks for the gradient of {name}, which is None")


def check_conv_transpose(op: str, call: Call, output_padding: Sequence[int]) -> tuple[int, int, int, int]:
    """The shape of the output, or an error as of check_conv.

    The weight is [C_in, C_out/groups, kh, kw], with kernel_attention [K, C_in, C_out/groups, kh, kw].
    """
    input, weight, bias, _, _, _, stride, padding, dilation, groups, kernel_attention = call
    check_input(op, input, "[N, C_in, H, W]")
    if kernel_attention is None:
        check_dims(op, "weight", weight, "[C_in, C_out/groups, kh, kw]")
    else:
        check_dims(op, "weight", weight, "[K, C_in, C_out/groups, kh, kw]", " with kernel_attention")
    _check_like_input(op, "weight", weight, input)
    _check_geometry(op, stride, padding, dilation, groups)
    check_pair(op, "output_padding", output_padding, 0)
    for extra, step, spread in zip(output_padding, stride, dilation, strict=True):
        if extra >= max(step, spread):
            _refuse(
                op,
                f"output_padding must be smaller than stride or dilation, got {list(output_padding)} with stride"
                f" {list(stride)} and dilation {list(dilation)}",
            )
    n, c, height, width = input.shape
    filters, per_group, kh, kw = call.kernel_shape
    o = per_group * groups
    if not (c > 0 and height > 0 and width > 0 and o > 0 and kh > 0 and kw > 0):
        _refuse(op, f"only the batch of input may be empty, got input {_shape(input)} and weight {_shape(weight)}")
    if c % groups != 0:
        _refuse(op, f"groups must divide C_in = {c}, got {groups}")
    if filters != c:
        _refuse(op, f"weight must have C_in = {c} filters, got {filters} in {_shape(weight)}")
    if kernel_attention is not None:
        _check_like_input(op, "kernel_attention", kernel_attention, input)
        _check_shares(op, kernel_attention, weight, n)
    if kernel_attention is not None and isinstance(bias, Tensor) and bias.dim() == 2:
        # The mixture of one bias for each kernel.
        if bias.shape[1] != o:
            k = weight.shape[0]
            _refuse(op, f"bias must have shape [{o}] or, one for each kernel, [{k}, {o}], got {[k, bias.shape[1]]}")
    else:
        _check_bias(op, "bias", bias, o, input)
    _check_attention(op, "channel_attention", call, n, c)
    _check_attention(op, "filter_attention", call, n, o)
    _check_attention(op, "spatial_attention", call, n, kh, kw)
    out_height, out_width = (
        (size - 1) * step - 2 * pad + spread * (kernel - 1) + extra + 1
        for size, step, pad, spread, kernel, extra in zip(
            (height, width), stride, padding, dilation, (kh, kw), output_padding, strict=True
        )
    )
    if not (out_height > 0 and out_width > 0):
        _refuse(
            op,
            f"the output would be empty: an input of [{height}, {width}] with a kernel of [{kh}, {kw}] has no pixel"
            f" left after padding {list(padding)}",
        )
    output_shape = n, o, out_height, out_width
    if all(isinstance(size, int) for size in output_shape) and math.prod(output_shape) >= 2**63:
        _refuse(op, f"the output must have less than 2**63 elements, got {list(output_shape)}")
    return output_shape


def check_squeeze_excite(
    op: str, input: Tensor, fc1_weight: Tensor, fc1_bias: Tensor | None, fc2_weight: Tensor, fc2_bias: Tensor | None
) -> None:
    check_input(op, input, "[N, C, H, W]")
    if 0 in input.shape[1:]:
        _refuse(op, f"only the batch of input may be empty, got {_shape(input)}")
    _check_like_input(op, "fc1_weight", fc1_weight, input)
    _check_like_input(op, "fc2_weight", fc2_weight, input)
    channels = input.shape[1]
    hidden = fc1_weight.shape[0] if fc1_weight.dim() else 0
    if hidden == 0 or not _is_dense(fc1_weight, hidden, channels):
        _refuse(
            op,
            f"fc1_weight must have shape [R, {channels}] or [R, {channels}, 1, 1] with R at least 1, got"
            f" {_shape(fc1_weight)}",
        )
    if not _is_dense(fc2_weight, channels, hidden):
        _refuse(
            op,
            f"fc2_weight must have shape [{channels}, {hidden}] or [{channels}, {hidden}, 1, 1], got"
            f" {_shape(fc2_weight)}",
        )
    _check_bias(op, "fc1_bias", fc1_bias, hidden, input)
    _check_bias(op, "fc2_bias", fc2_bias, channels, input)


def check_modulated_conv(
    op: str,
    x: Tensor,
    weight: Tensor,
    styles: Tensor,
    input_gain: Tensor | float | None,
    kernel_attention: Tensor | None,
    autocast: bool,
) -> None:
    check_input(op, x, "[N, C_in, H, W]", "x")
    if kernel_attention is None:
        check_dims(op, "weight", weight, "[C_out, C_in, kh, kw]")
    else:
        check_dims(op, "weight", weight, "[K, C_out, C_in, kh, kw]", " with kernel_attention")
    check_tensor(op, "styles", styles)
    modulation = {"weight": weight, "styles": styles}
    if kernel_attention is not None:
        check_tensor(op, "kernel_attention", kernel_attention)
        modulation["kernel_attention"] = kernel_attention
    if isinstance(input_gain, Tensor):
        check_tensor(op, "input_gain", input_gain)
        modulation["input_gain"] = input_gain
    elif input_gain is not None and (not isinstance(input_gain, float | int) or isinstance(input_gain, bool)):
        _refuse(op, f"input_gain must be a number or a tensor, got {type(input_gain).__name__}", TypeError)
    check_modulation(op, "x", x, modulation, autocast)
    batch, channels = x.shape[:2]
    if weight.shape[-3] != channels:
        _refuse(op, f"weight must have the {channels} channels of x, got {weight.shape[-3]} in {_shape(weight)}")
    if styles.shape != x.shape[:2]:
        _refuse(op, f"styles must have shape {list(x.shape[:2])}, got {_shape(styles)}")
    if isinstance(input_gain, Tensor) and input_gain.shape not in ((), (channels,), (batch, channels)):
        _refuse(
            op,
            f"input_gain must be a number or have shape [{channels}] or {[batch, channels]}, got {_shape(input_gain)}",
        )
    if 0 in x.shape[1:] or 0 in weight.shape[-4:]:
        _refuse(op, f"only the batch of x may be empty, got x {_shape(x)} and weight {_shape(weight)}")
    if kernel_attention is not None:
        _check_shares(op, kernel_attention, weight, batch)


def check_modulation(op: str, x_name: str, x: Tensor, modulation: dict[str, Tensor], autocast: bool) -> None:
    """Dtypes and devices of what x, by its name, is modulated with."""
    dtypes = {x.dtype, torch.float32}
    if x.dtype == torch.float64:
        dtypes = {torch.float64}
    elif autocast:
        dtypes = set(DTYPES) - {torch.float64}
    for name, tensor in modulation.items():
        _check_dtype(op, name, tensor, dtypes, x_name, x)
        _check_device(op, name, tensor, x, x_name)


def check_factors(op: str, up: int, down: int, padding: Sequence[int] | str) -> None:
    for name, factor in (("up", up), ("down", down)):
        if factor not in (1, 2):
            _refuse(op, f"{name} must be 1 or 2, got {factor!r}")
    if up == down == 2:
        _refuse(op, "one of up and down must be 1, got 2 for both")
    if max(up, down) == 2 and isinstance(padding, str):
        _refuse(op, f"padding must be an int or a pair of ints where up or down is 2, got {padding!r}")


def check_resampling(
    op: str, x: Tensor, up: int, down: int, padding: Sequence[int] | str, resample_filter: Tensor | None
) -> None:
    check_factors(op, up, down, padding)
    if resample_filter is not None:
        check_tensor(op, "resample_filter", resample_filter)
        if resample_filter.dim() not in (1, 2) or 0 in resample_filter.shape:
            _refuse(op, f"resample_filter must be [taps] or [rows, columns], got {_shape(resample_filter)}")
        _check_dtype(op, "resample_filter", resample_filter, {x.dtype, torch.float32}, "x", x)
        _check_device(op, "resample_filter", resample_filter, x, "x")
    if max(up, down) == 2 and not isinstance(padding, str):
        _check_padding(op, padding)


def _check_geometry(
    op: str, stride: Sequence[int], padding: Sequence[int], dilation: Sequence[int], groups: int, axes: int = 2
) -> None:
    check_pair(op, "stride", stride, 1, axes)
    _check_padding(op, padding, axes)
    check_pair(op, "dilation", dilation, 1, axes)
    if not isinstance(groups, int | torch.SymInt):
        _refuse(op, f"groups must be an int, got {groups!r}", TypeError)
    if groups < 1:
        _refuse(op, f"groups must be at least 1, got {groups}")


def _check_padding(op: str, padding: Sequence[int], axes: int = 2) -> None:
    check_pair(op, "padding", padding, 0, axes)
    if any(side > _LARGEST_PADDING for side in padding):
        _refuse(op, f"padding must be at most {_LARGEST_PADDING}, got {list(padding)}")


def check_named_padding(
    op: str, name: str, totals: Sequence[int], kernel: Sequence[int], dilation: Sequence[int]
) -> None:
    """Of the zeros along each axis that it stands for."""
    if any(total > _LARGEST_PADDING for total in totals):
        _refuse(
            op,
            f"padding={name!r} must come to at most {_LARGEST_PADDING} zeros, got {list(totals)} of a kernel of"
            f" {list(kernel)} with dilation {list(dilation)}",
        )


def check_input(op: str, input: Tensor, meaning: str, name: str = "input") -> None:
    check_dims(op, name, input, meaning)
    if input.dtype not in DTYPES:
        _refuse(op, f"{name} must be float64, float32, float16 or bfloat16, got {_dtype(input)}", TypeError)


def check_dims(op: str, name: str, tensor: Tensor, meaning: str, condition: str = "") -> None:
    check_tensor(op, name, tensor)
    dims = meaning.count(",") + 1
    if tensor.dim() != dims:
        _refuse(op, f"{name} must be {dims}-D {meaning}{condition}, got {tensor.dim()}-D {_shape(tensor)}")


def check_weight(op: str, weight: Tensor, kernel_attention: Tensor | None, axes: int = 2) -> None:
    if kernel_attention is not None:
        check_dims(op, "weight", weight, f"[K, C_out, C_in/groups, {TAPS[axes]}]", " with kernel_attention")
        return
    check_tensor(op, "weight", weight)
    if weight.dim() not in (2 + axes, 3 + axes):
        _refuse(
            op,
            f"weight must be {2 + axes}-D [C_out, C_in/groups, {TAPS[axes]}] or {3 + axes}-D with a kernel for each"
            f" sample in front, got {weight.dim()}-D {_shape(weight)}",
        )


def flag(op: str, name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        _refuse(op, f"{name} must be True or False, got {value!r}", TypeError)
    return value


def check_pair(op: str, name: str, values: Sequence[int], minimum: int, axes: int = 2) -> None:
    whole = isinstance(values, Sequence) and all(isinstance(value, int | torch.SymInt) for value in values)
    if not whole or any(isinstance(value, bool) for value in values):
        _refuse(op, f"{name} must be an int or a pair of ints, got {values!r}", TypeError)
    if len(values) != axes:
        _refuse(op, f"{name} must have 2 values (height, width), got {len(values)}")
    if any(value < minimum for value in values):
        _refuse(op, f"{name} must be at least {minimum}, got {list(values)}")
    if any(isinstance(value, int) and value >= 2**63 for value in values):
        _refuse(op, f"{name} must be below 2**63, got {list(values)}")


def _refuse(op: str, sentence: str, error: type[Exception] = ValueError) -> NoReturn:
    raise error(f"{op}: {sentence}")


def _shape(tensor: Tensor) -> str:
    return str(list(tensor.shape))


def _dtype(tensor: Tensor) -> str:
    return _name(tensor.dtype)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def check_tensor(op: str, name: str, value: Any) -> None:
    """It must be an array of elements in memory, as which aten's operators read it, or end the process."""
    if not isinstance(value, Tensor):
        _refuse(op, f"{name} must be a tensor, got {type(value).__name__}", TypeError)
    if value.is_nested or value.layout != torch.strided:
        got = "a nested one" if value.is_nested else f"layout {value.layout}"
        _refuse(op, f"{name} must be a strided tensor, got {got}", TypeError)
    if is_freed(value):
        _refuse(
            op,
            f"{name} has a non-zero number of elements, but its data is not allocated, got shape {_shape(value)} and an"
            " empty storage",
            RuntimeError,
        )


def is_freed(tensor: Tensor) -> bool:
    """After tensor.untyped_storage().resize_(0), as FSDP frees a parameter, which keeps its shape. Tensors that have no
    storage of their own, as those that torch.func, torch.compile and fake tensors wrap, are not."""
    if torch.compiler.is_compiling():
        return False
    try:
        if tensor.untyped_storage().nbytes() > 0:
            return False
    except RuntimeError:
        return False
    with not_traced():
        return type(tensor) in (Tensor, nn.Parameter) and (tensor.is_cpu or tensor.is_cuda) and tensor.numel() > 0


def _check_like_input(op: str, name: str, tensor: Tensor, input: Tensor) -> None:
    check_tensor(op, name, tensor)
    if tensor.dtype != input.dtype:
        _refuse(op, f"{name} must have the dtype of input ({_dtype(input)}), got {_dtype(tensor)}", TypeError)
    _check_device(op, name, tensor, input, "input")


def _check_dtype(op: str, name: str, tensor: Tensor, dtypes: set[torch.dtype], x_name: str, x: Tensor) -> None:
    if tensor.dtype not in dtypes:
        wanted = " or ".join(sorted(map(_name, dtypes)))
        _refuse(op, f"{name} must be {wanted} where {x_name} is {_dtype(x)}, got {_dtype(tensor)}", TypeError)


def _check_device(op: str, name: str, tensor: Tensor, input: Tensor, input_name: str) -> None:
    if tensor.device != input.device:
        _refuse(op, f"{name} must be on the device of {input_name} ({input.device}), got {tensor.device}")


def _check_bias(op: str, name: str, bias: Tensor | None, size: int, input: Tensor) -> None:
    if bias is None:
        return
    _check_like_input(op, name, bias, input)
    if bias.shape != (size,):
        _refuse(op, f"{name} must have shape [{size}], got {_shape(bias)}")


def _check_shares(op: str, kernel_attention: Tensor, weight: Tensor, batch: int) -> None:
    kernels = weight.shape[0]
    if not kernels > 0:
        _refuse(op, f"weight must have one kernel at least, got {_shape(weight)}")
    if kernel_attention.shape != (batch, kernels):
        _refuse(
            op,
            f"kernel_attention must have shape [{batch}, {kernels}] (samples, kernels), got {_shape(kernel_attention)}",
        )


def _check_attention(op: str, name: str, call: Call, batch: int, *static: int) -> None:
    attention = getattr(call, name)
    if attention is None:
        return
    _check_like_input(op, name, attention, call.input)
    if attention.shape != (static if attention.dim() == len(static) else (batch, *static)):
        _refuse(
            op,
            f"{name} must have shape {[batch, *static]} (per sample) or {list(static)} (static), got"
            f" {_shape(attention)}",
        )


def _is_dense(weight: Tensor, out: int, features: int) -> bool:
    """A fully connected layer, also in the form of a 1x1 convolution."""
    return weight.shape == (out, features) or weight.shape == (out, features, 1, 1)
