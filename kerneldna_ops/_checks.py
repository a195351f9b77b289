"""The arguments of kerneldna::conv, checked with the sentences of csrc/conv_shape.cpp.

Python needs them where the C++ checks do not run (fake tensors, devices without a C++ kernel) and to say TypeError or
ValueError where the dispatcher can only say RuntimeError.
"""

from collections.abc import Sequence
from typing import Any, NoReturn

import torch
from torch import Tensor

DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


def check_conv(
    op: str,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    channel_attention: Tensor | None,
    filter_attention: Tensor | None,
    spatial_attention: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> tuple[int, int, int, int]:
    """The shape of the output, or a TypeError / ValueError that names the argument, what was expected and what came."""
    _check_tensor(op, "input", input)
    if input.dim() != 4:
        _refuse(op, f"input must be 4-D [N, C_in, H, W], got {input.dim()}-D {_shape(input)}")
    if input.dtype not in DTYPES:
        _refuse(op, f"input must be float64, float32, float16 or bfloat16, got {_dtype(input)}", TypeError)
    if input.layout != torch.strided:
        _refuse(op, f"input must be a strided tensor, got layout {input.layout}", TypeError)
    _check_tensor(op, "weight", weight)
    if weight.dim() != 4:
        _refuse(op, f"weight must be 4-D [C_out, C_in/groups, kh, kw], got {weight.dim()}-D {_shape(weight)}")
    _check_like_input(op, "weight", weight, input)
    _check_pair(op, "stride", stride, 1)
    _check_pair(op, "padding", padding, 0)
    _check_pair(op, "dilation", dilation, 1)
    if not isinstance(groups, int | torch.SymInt):
        _refuse(op, f"groups must be an int, got {groups!r}", TypeError)

    n, c, height, width = input.shape
    o, c_per_group, kh, kw = weight.shape
    if groups < 1:
        _refuse(op, f"groups must be at least 1, got {groups}")
    if not (c > 0 and o > 0 and kh > 0 and kw > 0):
        _refuse(
            op, f"only the batch of input may be empty, got input {_shape(input)} and weight {_shape(weight)}"
        )
    if c % groups != 0 or o % groups != 0:
        _refuse(op, f"groups must divide C_in = {c} and C_out = {o}, got {groups}")
    if c_per_group != c // groups:
        _refuse(
            op, f"weight must have C_in/groups = {c // groups} input channels, got {c_per_group} in {_shape(weight)}"
        )
    if bias is not None:
        _check_tensor(op, "bias", bias)
        _check_like_input(op, "bias", bias, input)
        if bias.shape != (o,):
            _refuse(op, f"bias must have shape [{o}], got {_shape(bias)}")
    _check_attention(op, "channel_attention", channel_attention, input, (n, c))
    _check_attention(op, "filter_attention", filter_attention, input, (n, o))
    _check_attention(op, "spatial_attention", spatial_attention, input, (n, kh, kw))

    out_height = _out_size(height, kh, stride[0], padding[0], dilation[0])
    out_width = _out_size(width, kw, stride[1], padding[1], dilation[1])
    if not (out_height > 0 and out_width > 0):
        _refuse(
            op,
            f"the output would be empty: a kernel of [{kh}, {kw}] with dilation {list(dilation)} does not fit into an"
            f" input of [{height}, {width}] with padding {list(padding)}",
        )
    return n, o, out_height, out_width


def check_grad_output(op: str, grad_output: Tensor, input: Tensor, output_shape: tuple[int, int, int, int]) -> None:
    _check_like_input(op, "grad_output", grad_output, input)
    if grad_output.shape != output_shape:
        _refuse(op, f"grad_output must have shape {list(output_shape)}, got {_shape(grad_output)}")


def _refuse(op: str, sentence: str, error: type[Exception] = ValueError) -> NoReturn:
    raise error(f"{op}: {sentence}")


def _shape(tensor: Tensor) -> str:
    return str(list(tensor.shape))


def _dtype(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _check_tensor(op: str, name: str, value: Any) -> None:
    if not isinstance(value, Tensor):
        _refuse(op, f"{name} must be a tensor, got {type(value).__name__}", TypeError)


def _check_like_input(op: str, name: str, tensor: Tensor, input: Tensor) -> None:
    if tensor.dtype != input.dtype:
        _refuse(op, f"{name} must have the dtype of input ({_dtype(input)}), got {_dtype(tensor)}", TypeError)
    if tensor.device != input.device:
        _refuse(op, f"{name} must be on the device of input ({input.device}), got {tensor.device}")


def _check_pair(op: str, name: str, values: Sequence[int], minimum: int) -> None:
    if not isinstance(values, Sequence) or not all(isinstance(value, int | torch.SymInt) for value in values):
        _refuse(op, f"{name} must be an int or a pair of ints, got {values!r}", TypeError)
    if len(values) != 2:
        _refuse(op, f"{name} must have 2 values (height, width), got {len(values)}")
    if values[0] < minimum or values[1] < minimum:
        _refuse(op, f"{name} must be at least {minimum}, got {list(values)}")


def _check_attention(op: str, name: str, attention: Tensor | None, input: Tensor, per_sample: tuple[int, ...]) -> None:
    if attention is None:
        return
    _check_tensor(op, name, attention)
    _check_like_input(op, name, attention, input)
    static = per_sample[1:]
    if attention.shape != (per_sample if attention.dim() == len(per_sample) else static):
        _refuse(
            op,
            f"{name} must have shape {list(per_sample)} (per sample) or {list(static)} (static), got"
            f" {_shape(attention)}",
        )


def _out_size(size: int, kernel: int, stride: int, padding: int, dilation: int) -> int:
    span = size + 2 * padding - dilation * (kernel - 1) - 1
    return 0 if span < 0 else span // stride + 1
