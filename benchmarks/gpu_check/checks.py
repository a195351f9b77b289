"""The calls that are checked: odd sizes, every flag, and zeros among the factors."""

import functools
from typing import NamedTuple

import torch
from torch import Tensor

import truths
from cases import ABSENT, PATTERNS, STATIC, Call, Case, build, grad_output
from kerneldna_ops.reference import conv2d_reference
from tolerance import Truth, largest

from .machine import PRECISIONS, Machine

# Sizes on no edge of a tile, channels that TMA can address (a multiple of 16 bytes) unless the name says otherwise.
CASES = [
    Case("kernel_3x3", (5, 40, 7, 9), 72, padding=(1, 1), input_layout="channels_last", weight_layout="channels_last"),
    Case("odd_everything", (3, 37, 9, 11), 29, (3, 2), (2, 1), (1, 0), (2, 1)),
    Case("stride_2x2", (6, 64, 14, 12), 40, stride=(2, 2), padding=(1, 1), input_layout="channels_last"),
    Case("kernel_1x1", (3, 72, 13, 9), 136, (1, 1), input_layout="channels_last"),
    Case("depthwise_stride_2x2", (3, 70, 13, 12), 70, stride=(2, 2), padding=(1, 1), groups=70),
    Case("published", (4, 48, 14, 13), 80, padding=(1, 1), input_layout="channels_last", **PATTERNS["published"]),
    Case("plain", (3, 64, 8, 9), 136, padding=(1, 1), **PATTERNS["plain"]),
    Case("spatial_only", (7, 24, 7, 7), 48, padding=(1, 1), **PATTERNS["spatial_only"]),
    Case("static_factors", (3, 40, 6, 7), 40, (5, 5), padding=(2, 2), channel=STATIC, filter=STATIC, spatial=STATIC),
    Case("more_samples_than_a_box", (35, 32, 7, 7), 24, padding=(1, 1), filter=ABSENT),
    Case("groups_3_dilation_2x2", (2, 36, 9, 8), 30, padding=(2, 2), dilation=(2, 2), groups=3),
    Case("one_sample", (1, 64, 7, 7), 130, padding=(1, 1), input_layout="sliced"),
    Case("depthwise_5x5", (2, 40, 9, 8), 40, (5, 5), padding=(2, 2), groups=40, input_layout="channels_last"),
    Case("pointwise_stride_2x2", (3, 64, 8, 10), 72, (1, 1), stride=(2, 2)),
]
# bfloat16, which nothing could check without a GPU, has all; the others the first few.
OF_EACH_PRECISION = {"bf16": len(CASES), "fp16": 7, "tf32": 5, "fp32": 6}

DRY_CASES = {
    "fp16": [Case("kernel_3x3", (2, 8, 3, 3), 8, padding=(1, 1), input_layout="channels_last")],
    "fp32": [Case("depthwise", (2, 5, 4, 3), 5, padding=(1, 1), groups=5)],
}


class Checked(NamedTuple):
    """A call on the device and what is right for it; plain: what PyTorch makes of it in the same precision."""

    case: Case
    call: Call
    grad: Tensor
    output: Truth
    gradients: tuple[Truth | None, ...]
    plain_output: list[tuple[Tensor]]
    plain_gradients: list[truths.Gradients]


def cases(machine: Machine, precision: str) -> list[Case]:
    return DRY_CASES[precision] if machine.dry else CASES[: OF_EACH_PRECISION[precision]]


def checked(case: Case, precision: str, device: torch.device) -> Checked:
    dtype = PRECISIONS[precision][0]
    output, gradients = _truths(case)
    # TF32 has the mantissa of float16, so it may be as far off.
    plain = _plain(case, torch.float16 if precision == "tf32" else dtype)
    return Checked(case, *on_device(case, dtype, device), output, gradients, *plain)


def on_device(case: Case, dtype: torch.dtype, device: torch.device) -> tuple[Call, Tensor]:
    """The call and the gradient of its output."""
    call = truths.map_tensors(lambda tensor: _moved(tensor, device), _with_zeros(build(case, dtype)))
    return call, grad_output(case, dtype).to(device)


def _moved(tensor: Tensor, device: torch.device) -> Tensor:
    """With its strides and its place in memory: a slice stays one, with NaN around it."""
    last = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    whole = torch.full((tensor.storage_offset() + last + 1,), torch.nan, dtype=tensor.dtype, device=device)
    return whole.as_strided(tensor.shape, tensor.stride(), tensor.storage_offset()).copy_(tensor)


def _with_zeros(call: Call) -> Call:
    """The first channel, the first filter and the first tap of the first sample are switched off."""
    attentions = [None if tensor is None else tensor.clone() for tensor in call.tensors[3:]]
    for tensor in attentions:
        if tensor is not None:
            tensor.view(-1)[0] = 0
    return Call(*call[:3], *attentions, *call[6:])


@functools.cache
def _truths(case: Case) -> tuple[Truth, tuple[Truth | None, ...]]:
    call = _with_zeros(build(case))
    sizes = truths.map_tensors(Tensor.abs, call)
    products = case.products / max(conv2d_reference(*call).numel(), 1)
    output = Truth("output", conv2d_reference(*call), largest(conv2d_reference(*sizes)), products)
    return output, truths.gradients_of(case, call, grad_output(case))


@functools.cache
def _plain(case: Case, dtype: torch.dtype) -> tuple[list[tuple[Tensor]], list[truths.Gradients]]:
    call = _with_zeros(build(case, dtype))
    outputs = [(form(call),) for form in truths.plain_forms(case)]
    return outputs, truths.plain_gradients_of(case, call, grad_output(case, dtype))
