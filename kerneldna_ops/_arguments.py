"""What a kernel in Python has to know about the arguments of conv."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def with_defaults(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    channel_attention: Tensor | None = None,
    filter_attention: Tensor | None = None,
    spatial_attention: Tensor | None = None,
    stride: Sequence[int] = (1, 1),
    padding: Sequence[int] = (0, 0),
    dilation: Sequence[int] = (1, 1),
    groups: int = 1,
) -> tuple[Any, ...]:
    """All ten of them: of the arguments that equal their defaults the dispatcher drops the last ones."""
    attentions = (channel_attention, filter_attention, spatial_attention)
    return input, weight, bias, *attentions, stride, padding, dilation, groups


def output_memory_format(input: Tensor) -> torch.memory_format:
    """The layout that the output takes from the input, and each gradient from its tensor.

    A transform of torch.func hides it: what lies under one says its own when the op comes to that.
    """
    if input.dim() != 4 or input.is_contiguous() or torch._C._functorch.is_functorch_wrapped_tensor(input):
        return torch.contiguous_format
    return torch.channels_last if input.is_contiguous(memory_format=torch.channels_last) else torch.contiguous_format
